"""`--json` prints one JSON object (a list where the verb lists things) and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command import command

SMALL = ("--steps", "3", "--batch-size", "8")
BARE = ("--method", "shader-kd", "--without", "attack", "--without", "balance")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with labelled images and a network trained on them."""
    folder = tmp_path_factory.mktemp("json")
    rng = np.random.default_rng(0)
    np.savez(folder / "x.npz", x=rng.integers(0, 256, (30, 8, 8), np.uint8), y=np.arange(30) % 3)
    words = ("--net", "builtin/convnet-3", "--data", folder / "x.npz", "--steps", "3")
    told = command("train", *words, "--batch-size", "10", "--out", folder / "net", "--json")
    assert json.loads(told.out)["steps"] == 3
    return folder


def calls(folder: Path) -> dict[str, tuple[object, ...]]:
    net, data = folder / "net", folder / "x.npz"
    noise = ("--calibration", "noise")
    student = ("--teacher", net, "--student", "builtin/convnet-3", *BARE, *SMALL)
    return {
        "distill": (*student, "--transfer", "noise", "--eval", data, "--out", folder / "run"),
        "train-generator": (
            *("lcw", "--data", folder / "x.npz", "--out", folder / "generator", "--steps", "2"),
            *("--batch-size", "8", "--set", "plan.width=8", "--set", "plan.hidden=8"),
        ),
        "synthesize": ("noise", "--count", "5", "--size", "8", "--out", folder / "set"),
        "evaluate": ("--model", net, "--data", data),
        "export": ("--model", net, "--format", "onnx", *noise, "--out", folder / "out"),
        "inspect": (net,),
        "score": ("--teacher", net, "--transfer", "noise", "--count", "64"),
        "report": (net,),
        "methods": (),
        "doctor": (),
    }


@pytest.mark.parametrize("verb", calls(Path()))
def test_one_json_object_and_nothing_else(verb, folder, capfd):
    told = command(verb, *calls(folder)[verb], "--json")
    leaked = capfd.readouterr()
    assert told.status == 0, told.err
    assert leaked.out == ""
    assert isinstance(json.loads(told.out, parse_constant=pytest.fail), dict | list)


@pytest.mark.parametrize("verb", ["evaluate", "inspect", "methods", "doctor", "synthesize"])
def test_without_json_a_person_reads_words(verb, folder):
    words = calls(folder)[verb]
    told = command(verb, *words, *(("--overwrite",) if verb == "synthesize" else ()))
    assert told.status == 0, told.err
    assert told.out.strip()
    assert not told.out.lstrip().startswith(("{", "["))


def test_the_keys_that_scripts_rely_on(folder):
    told = json.loads(command("evaluate", *calls(folder)["evaluate"], "--json").out)
    assert {"accuracy", "correct", "count", "per_class"} <= told.keys()
    for offer in json.loads(command("doctor", "--json").out):
        assert offer.keys() == {"name", "there", "detail", "add"}
