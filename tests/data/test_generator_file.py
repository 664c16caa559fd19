import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from doublure.data.checkpoints import CheckpointError
from doublure.data.generator_file import (
    DESCRIPTION,
    WEIGHTS,
    generator_files,
    is_generator,
    read_generator,
)
from doublure.nets.cramer_wold import CramerWoldGenerator, CramerWoldPlan

PLAN = CramerWoldPlan(latent=3, noise=2, width=8, hidden=6)


@pytest.fixture
def folder(tmp_path) -> Path:
    state = CramerWoldGenerator(PLAN, num_codes=4).state_dict()
    for name, content in generator_files("lcw", asdict(PLAN), state).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def read(path):
    return read_generator(path, "lcw", CramerWoldPlan)


def change(folder: Path, **values):
    told = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(told | values))


def test_what_was_written_comes_back(folder):
    for path in (folder, folder / DESCRIPTION):
        assert is_generator(path)
        plan, state = read(path)
        assert plan == PLAN
        CramerWoldGenerator(plan, num_codes=4).load_state_dict(state)


def test_equal_generators_have_equal_files():
    state = {"a": torch.arange(3.0)}
    assert generator_files("lcw", asdict(PLAN), state) == generator_files(
        "lcw", asdict(PLAN), {"a": torch.arange(6.0)[::2] / 2}
    )


def test_the_description_comes_last_so_that_where_it_stands_all_is_there():
    assert list(generator_files("lcw", {}, {})) == [WEIGHTS, DESCRIPTION]


def test_a_folder_without_one_says_how_to_make_one(tmp_path):
    assert not is_generator(tmp_path)
    with pytest.raises(CheckpointError, match="doublure train-generator lcw"):
        read(tmp_path)


def test_weights_that_were_exchanged_are_noticed(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match=r"is not what generator\.json was written with"):
        read(folder)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": "gan"}, "a generator of 'gan', not of 'lcw'"),
        ({"format_version": 2}, "has format_version 2, this doublure reads 1"),
        ({"code": "import os"}, "does not describe a generator"),
        ({"plan": asdict(PLAN) | {"latent": "many"}}, "latent: Input should be a valid integer"),
        ({"plan": asdict(PLAN) | {"latent": 0}}, "latent must be positive"),
        ({"plan": asdict(PLAN) | {"depth": 3}}, "unknown key 'depth'"),
    ],
)
def test_a_description_that_is_wrong_says_where(folder, values, told):
    change(folder, **values)
    with pytest.raises(CheckpointError, match=told):
        read(folder)


def test_a_description_that_is_torn_is_refused(folder):
    (folder / DESCRIPTION).write_text('{"method": "lc')
    with pytest.raises(CheckpointError, match=r"generator.json cannot be read"):
        read(folder)
