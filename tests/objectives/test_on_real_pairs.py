"""Every objective from the command line, on networks of one family and of two."""

import functools
import json

import pytest

from doublure import catalogue
from doublure.tasks.classification import summary
from doublure.tasks.classification.held_out import answer_held_out
from tests.command import command

ALONE = [entry for entry in catalogue.OBJECTIVES if entry.name != "weighted"]
ON_LAYERS = [entry for entry in ALONE if "features" in entry.card.needs]
PAIRS = [
    *((entry.name, "builtin/convnet-16", "builtin/convnet-6") for entry in ALONE),
    *((entry.name, "builtin/vgg8", "builtin/resnet8") for entry in ON_LAYERS),
    *((entry.name, "builtin/resnet8", "builtin/mobilenetv2-0.5") for entry in ON_LAYERS),
    *((entry.name, "builtin/vit-small", "builtin/resnet8") for entry in ON_LAYERS),
]


@pytest.fixture
def briefly(monkeypatch):
    """Judge students on few images."""
    monkeypatch.setattr(summary, "answer_held_out", functools.partial(answer_held_out, count=32))
    monkeypatch.setattr(summary, "_SCORED", 32)


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
@pytest.mark.parametrize(("objective", "teacher", "student"), PAIRS)
def test_an_objective_trains_a_pair(objective, teacher, student, tmp_path):
    out = tmp_path / "run"
    words = f"--teacher {teacher} --classes 10 --size 16 --student {student} --labels"
    words += " --method surrogate-kd --transfer builtin/digits --steps 3 --batch-size 8"
    words += f" --objective soft-targets --objective {objective} --device cpu --out {out}"
    if objective == "soft-targets":
        words = words.replace("--objective soft-targets ", "", 1)
    if objective == "crd":
        words += " --set num_negatives=64"
    told = command("distill", *words.split(), "--precision", "float32")
    assert told.status == 0, told.err
    made = json.loads((out / "summary.json").read_text())
    assert made["steps"] == 3
    assert bool(made["compared"]) == ("features" in catalogue_of(objective).card.needs)


def catalogue_of(name: str) -> catalogue.Entry:
    return next(entry for entry in catalogue.OBJECTIVES if entry.name == name)
