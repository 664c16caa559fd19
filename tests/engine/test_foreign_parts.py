"""A user's own source and objective: resumed, run again, and refused without permission."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from doublure import distill
from doublure.catalogue import CODEC
from doublure.engine.fit import FitSettings
from doublure.engine.foreign_parts import class_name, load_class, names_class
from doublure.engine.recipe import Recipe, RecipeError, Stage
from doublure.nets.references import NetworkRef
from doublure.networks import load, save
from doublure.sources.noise import Noise
from tests import tiny
from tests.command import command

PARTS = """
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from doublure.core.protocols import image_batch
from doublure.core.seeding import child


@dataclass(frozen=True, kw_only=True)
class Bars:
    width: int = 2

    def open(self, context, teacher, rng):
        return BarStream(self.width, context, rng)


class BarStream:
    def __init__(self, width, context, rng):
        self.width, self.context, self.rng = width, context, rng

    def draw(self, step, student):
        context = self.context
        rng = child(self.rng, context.split, context.rank, step)
        images = torch.zeros(context.batch_size, context.contract.channels, *context.contract.size)
        places = torch.randint(context.contract.size[1], (context.batch_size,), generator=rng)
        for image, place in zip(images, places.tolist()):
            image[:, :, place : place + self.width] = 1.0
        return image_batch(images)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@dataclass(frozen=True, kw_only=True)
class CentredLogits:
    weight: float = 0.1

    def __call__(self, student, teacher, batch):
        one, other = (x - x.mean(-1, keepdim=True) for x in (student.output, teacher.output))
        return {"centred_logits": self.weight * F.mse_loss(one, other)}


@dataclass(frozen=True, kw_only=True)
class Needy:
    size: int

    def open(self, context, teacher, rng):
        raise AssertionError
"""


class KilledError(Exception):
    pass


@dataclass(frozen=True, kw_only=True)
class Holding:
    thing: object = print

    def __call__(self, student, teacher, batch):
        raise AssertionError


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("code") / "parts.py"
    path.write_text(PARTS)
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    save(load("builtin/convnet-4", like=tiny.CONTRACT), folder)
    return folder


def words(parts: Path, teacher: Path, out: Path, *more: object) -> list[object]:
    named = ["--transfer", f"{parts}:Bars", "--objective", f"{parts}:CentredLogits=2"]
    method = ["--method", "shader-kd", "--without", "attack", "--steps", "6", "--batch-size", "8"]
    fast = ["--set", "pool_size=16", "--set", "bars.width=3"]
    networks = ["--teacher", teacher, "--student", "builtin/convnet-3"]
    return ["distill", *networks, *named, *method, *fast, "--out", out, *more]


@pytest.fixture(scope="module")
def finished(parts, teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert command(*words(parts, teacher, out)).status == 0
    return out


def weights(folder: Path) -> bytes:
    return (folder / "student.safetensors").read_bytes()


def test_a_recipe_names_the_class_by_its_file(finished, parts):
    text = (finished / "recipe.toml").read_text()
    assert f'kind = "{parts}:Bars"' in text
    assert f'kind = "{parts}:CentredLogits"' in text
    assert "width = 3" in text


def test_the_recipe_runs_again_with_the_same_bytes_where_its_file_is_allowed(
    finished, parts, tmp_path
):
    again = ["distill", "--recipe", finished / "recipe.toml", "--out", tmp_path / "again"]
    refused = command(*again)
    assert refused.status == 1
    assert refused.reason.endswith(f"if you trust it, use --allow-code {parts}")
    assert not (tmp_path / "again").exists()
    assert command(*again, "--allow-code", parts).status == 0
    assert weights(tmp_path / "again") == weights(finished)


def test_a_killed_run_is_resumed_with_the_same_bytes(finished, parts, teacher, tmp_path):
    module_source, module_objective = (
        load_class(f"{parts}:{name}", allow_code=True) for name in ("Bars", "CentredLogits")
    )
    run = {
        "out": tmp_path / "run",
        "transfer": module_source(width=3),
        "objective": module_objective(weight=0.2),
        "method": "shader-kd",
        "without": ["attack"],
        "steps": 6,
        "batch_size": 8,
        "set": {"pool_size": "16", "log_every": "1"},
        "checkpoint_seconds": 0.0,
    }

    def kill(steps, line):
        if line["step"] >= 3:
            raise KilledError

    network = str(teacher)
    with pytest.raises(KilledError):
        distill(network, "builtin/convnet-3", **run, watch=kill, resume=False)
    distill(network, "builtin/convnet-3", **run, resume=True)
    whole = run | {"out": tmp_path / "whole"}
    distill(network, "builtin/convnet-3", **whole)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_what_cannot_be_named_is_refused_before_the_first_step(teacher, tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Local:
        def __call__(self, student, teacher, batch):
            raise AssertionError("no step was to be taken")

    with pytest.raises(ValueError, match=r"Local is defined inside another class.*module"):
        distill(
            str(teacher),
            "builtin/convnet-3",
            out=tmp_path / "run",
            transfer="noise",
            objective=Local(),
            steps=2,
        )
    with pytest.raises(ValueError, match="a recipe holds settings as dataclasses, not a function"):
        distill(
            str(teacher),
            "builtin/convnet-3",
            out=tmp_path / "run",
            transfer="noise",
            objective=lambda student, teacher, batch: {},
            steps=2,
        )
    assert not (tmp_path / "run").exists()


def test_a_class_of_the_program_that_runs_cannot_be_named(monkeypatch):
    monkeypatch.setattr(KilledError, "__module__", "__main__")
    with pytest.raises(ValueError, match="is defined in the running program"):
        class_name(KilledError)


def test_a_class_of_a_module_is_named_by_it():
    assert class_name(KilledError) == f"{__name__}:KilledError"
    assert load_class(f"{__name__}:KilledError", allow_code=[__name__]) is KilledError
    with pytest.raises(ValueError, match=r"cannot import no\.such for no\.such:Thing"):
        load_class("no.such:Thing", allow_code=True)


def test_a_field_that_no_file_can_hold_is_named():
    stage = Stage(source=Noise(), objective=Holding(), fit=FitSettings())
    recipe = Recipe(verb="train", method="x", student=NetworkRef(ref="y"), stages=(stage,))
    with pytest.raises(RecipeError, match=r"stages\.0\.objective\.thing: a recipe cannot"):
        CODEC.to_toml(recipe)


def test_what_is_typed_is_refused_in_one_line(parts, teacher, tmp_path):
    networks = ["--teacher", teacher, "--student", "builtin/convnet-3", "--out", tmp_path / "run"]
    for typed, line in (
        (f"{parts}:Nothing", f"there is no class Nothing in {parts}"),
        (f"{parts}:Needy", "has no default for each of its fields"),
        (f"{parts}:CentredLogits", "is not a source: it lacks open"),
        ("absent.py:Bars", "no Python file"),
    ):
        done = command("distill", *networks, "--transfer", typed)
        assert done.status == 1
        assert line in done.reason


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("parts.py:Bars", True),
        ("a/b c/parts.py:Bars", True),
        ("package.module:Bars", True),
        ("soft-targets", False),
        ("folder:de-en", False),
        ("builtin/digits", False),
    ],
)
def test_a_name_of_a_class_has_a_place_and_a_name(text, named):
    assert names_class(text) is named
