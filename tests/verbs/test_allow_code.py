"""Code of a person's own runs where they typed its name, or allowed its file, in every verb."""

import pytest

from doublure.core.protocols import InputContract
from doublure.nets.references import NetworkRef
from doublure.networks import load, save
from tests.command import command

NET = """
from torch import nn


def make_net(classes=10):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, classes))
"""
TAKES = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,), classes=10)
FEW = "--steps 1 --batch-size 4 --transfer noise --set pool_size=8"
VERBS = [
    "inspect {run}",
    "evaluate --model {run} --data builtin/digits",
    "score --teacher {run} --transfer noise --count 64",
    "synthesize noise --teacher {run} --count 2 --out {out}",
    "export --model {run} --format safetensors --calibration noise --out {out}",
    f"distill --teacher {{run}} --student builtin/convnet-3 {FEW} --out {{out}}",
    f"distill --teacher {{plain}} --student {{run}} {FEW} --out {{out}}",
    f"quantize --model {{run}} {FEW} --out {{out}}",
]


@pytest.fixture(scope="module")
def net_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture(scope="module")
def run(net_file, tmp_path_factory):
    """A run's folder whose student stands in a file of code."""
    network = load(NetworkRef(ref=f"file:{net_file}:make_net", size=(8, 8)), allow_code=True)
    folder = tmp_path_factory.mktemp("run")
    save(network, folder)
    return folder


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.partition(" ")[0])
def test_a_runs_code_is_refused_until_its_file_is_allowed(verb, run, net_file, tmp_path):
    save(load("builtin/convnet-3", like=TAKES), tmp_path / "plain")
    words = verb.format(run=run, plain=tmp_path / "plain", out=tmp_path / "out").split()
    refused = command(*words)
    assert refused.status == 1
    assert refused.reason.endswith(f"if you trust it, use --allow-code {net_file}")
    assert command(*words, "--allow-code", "another.py").status == 1
    assert command(*words, "--allow-code", net_file).status == 0


def test_a_typed_file_may_run_beside_a_run_that_needs_another(run, net_file, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(NET)
    words = f"distill --teacher {run} --student file:{other}:make_net {FEW} --out".split()
    assert command(*words, tmp_path / "out").status == 1
    assert command(*words, tmp_path / "out", "--allow-code", net_file).status == 0
    assert (tmp_path / "out" / "student.pt2").exists()


# torch's own deprecation, met when a traced module is copied.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_where_a_program_lies_beside_it_the_refusal_names_it(net_file, tmp_path):
    words = f"train --net file:{net_file}:make_net --data builtin/digits --steps 1 --batch-size 4"
    assert command(*words.split(), "--out", tmp_path / "run").status == 0
    refused = command("inspect", tmp_path / "run")
    program = tmp_path / "run" / "student.pt2"
    assert refused.reason.endswith(f"--allow-code {net_file}, or name {program}, which needs none")
    assert command("inspect", program).status == 0
