"""A student on disk: both files belong together, and equal content gives equal bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from doublure.core.protocols import InputContract
from doublure.data.checkpoints import CheckpointError
from doublure.data.student_file import (
    ImageDescription,
    from_json,
    read_student,
    to_json,
    write_student,
)

CONTRACT = InputContract(
    size=(24, 32),
    channels=3,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    classes=2,
    names=("Schäfer", "sheep"),
    interpolation="bicubic",
    crop_pct=0.875,
)
STATE = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}

KNOWN = {"classification": ImageDescription}


def description(**changes: Any) -> ImageDescription:
    made = ImageDescription.of(CONTRACT, "builtin/resnet20", ({"kind": "prune", "keep": [1, 2]},))
    return ImageDescription(**{**vars(made), **changes})


def written(folder: Path, state: dict[str, Tensor] = STATE) -> Path:
    write_student(folder, state, "classification", description())
    return folder


def test_a_student_comes_back_as_it_was(tmp_path):
    for path in (written(tmp_path), tmp_path / "student.json"):
        state, told = read_student(path, KNOWN)
        assert told.task == "classification"
        assert told.description == description()
        assert told.description.contract == CONTRACT
        assert state.keys() == STATE.keys()
        assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_the_description_uses_the_names_of_timm(tmp_path):
    told = json.loads((written(tmp_path) / "student.json").read_text())
    assert told["input_size"] == [3, 24, 32]
    assert told["mean"] == [0.485, 0.456, 0.406]
    assert told["crop_pct"] == 0.875
    assert told["interpolation"] == "bicubic"
    assert told["num_classes"] == 2
    assert told["label_names"] == ["Schäfer", "sheep"]


def test_equal_content_gives_equal_bytes(tmp_path):
    strided = {"count": STATE["count"], "weight": STATE["weight"].t().contiguous().t()}
    first, second = written(tmp_path / "a"), written(tmp_path / "b", strided)
    for name in ("student.safetensors", "student.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_tied_weights_are_written_twice(tmp_path):
    shared = torch.ones(2)
    state, _ = read_student(written(tmp_path, {"a": shared, "b": shared}), KNOWN)
    assert torch.equal(state["a"], state["b"])


def test_nothing_but_the_two_files_is_left(tmp_path):
    written(written(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        ".doublure",
        "student.safetensors",
        "student.json",
    }


def test_what_was_there_survives_a_full_disk(tmp_path, monkeypatch):
    written(tmp_path)

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(CheckpointError, match="the previous files are intact"):
        written(tmp_path, {"weight": torch.zeros(1)})
    assert torch.equal(read_student(tmp_path, KNOWN)[0]["weight"], STATE["weight"])
    assert len(list(tmp_path.iterdir())) == 3


def test_weights_of_another_student_are_noticed(tmp_path):
    written(tmp_path / "a")
    written(tmp_path / "b", {"weight": torch.zeros(1)})
    (tmp_path / "a" / "student.safetensors").replace(tmp_path / "b" / "student.safetensors")
    with pytest.raises(CheckpointError, match=r"not what student\.json was written with"):
        read_student(tmp_path / "b", KNOWN)


def test_weights_that_are_gone_are_noticed(tmp_path):
    (written(tmp_path) / "student.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no file .*student\.safetensors"):
        read_student(tmp_path, KNOWN)


def test_a_folder_without_a_student_says_what_is_there(tmp_path):
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(CheckpointError, match=r"no student\.json, only checkpoint, recipe\.toml"):
        read_student(tmp_path, KNOWN)


def test_a_student_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no file .*student\.json"):
        read_student(tmp_path / "student.json", KNOWN)


def changed(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda told: told.update(values)


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda told: told.__delitem__(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(format_version=2), "format_version 2, this doublure reads 1"),
        (without("format_version"), "format_version None"),
        (without("sha256"), "lacks 'sha256'"),
        (without("mean"), "where: mean: Field required"),
        (changed(crop_percent=1.0), "unknown key 'crop_percent'; did you mean 'crop_pct'"),
        (changed(num_classes="2"), "num_classes: Input should be a valid integer"),
        (changed(input_size=[24, 32]), "input_size.2: Field required"),
        (changed(plan=["prune"]), "plan.0: Input should be an object"),
        (changed(std=[0.2, 0.2, 0.0]), "std must be positive"),
        (changed(label_names=["sheep"]), r"names must have one entry per class \(2\)"),
        (changed(mean=[0.5]), r"mean must have one value per channel \(3\)"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(change, message):
    told = json.loads(to_json("classification", description(), "0"))
    change(told)
    with pytest.raises(CheckpointError, match=message):
        from_json(json.dumps(told), "where", KNOWN)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"mean": NaN}', "\udc80"])
def test_text_that_is_no_description_is_refused(text):
    with pytest.raises(CheckpointError, match="where"):
        from_json(text, "where", KNOWN)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (written(tmp_path) / "student.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_student(tmp_path, KNOWN)
