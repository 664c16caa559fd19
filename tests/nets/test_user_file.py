"""A network from the user's own file is told what it has arguments for, and nothing else."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from doublure.nets.user_file import load_factory, make

SOURCE = """
from dataclasses import dataclass
from torch import nn
from neighbour import WIDTH

@dataclass
class Settings:
    depth: "int" = 1

def fixed():
    return nn.Linear(WIDTH, 10)

def flexible(classes, channels=3, *, size=(8, 8)):
    from late_neighbour import wrap
    return wrap(nn.Linear(channels * size[0], classes))

def impossible(depth):
    return nn.Linear(depth, 1)

def no_network():
    return "network"

def anything(**options):
    return nn.Linear(1, 1 + len(options))

def halved():
    return nn.Linear(WIDTH, 10).half()

constant = 3
"""


@pytest.fixture
def net_file(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("WIDTH = 7")
    (tmp_path / "late_neighbour.py").write_text("def wrap(net):\n    return net")
    yield tmp_path / "net.py"
    for name in ("neighbour", "late_neighbour"):
        sys.modules.pop(name, None)


def test_a_function_is_told_what_it_has_arguments_for(net_file):
    wanted = {"classes": 5, "channels": 1, "size": (4, 4)}
    flexible = make(load_factory(net_file, "flexible"), "file:", **wanted)
    assert (flexible.in_features, flexible.out_features) == (4, 5)
    fixed = make(load_factory(net_file, "fixed"), "file:", **wanted)
    assert (fixed.in_features, fixed.out_features) == (7, 10)
    assert make(load_factory(net_file, "anything"), "file:", **wanted).out_features == 1


def test_weights_in_half_precision_are_brought_to_float32_and_it_is_said(net_file):
    with pytest.warns(UserWarning, match=r"^net has float16 weights: converted to float32"):
        network = make(load_factory(net_file, "halved"), "net")
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_its_own_defaults_stand_where_nobody_said(net_file):
    factory = load_factory(net_file, "flexible")
    network = make(factory, "file:", classes=5, channels=None, size=None)
    assert (network.in_features, network.out_features) == (24, 5)


def test_a_class_serves_as_well(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\nclass Net(nn.Module):\n    pass")
    assert isinstance(make(load_factory(tmp_path / "net.py", "Net"), "file:"), nn.Module)


def test_the_search_path_is_left_as_it_was(net_file):
    before = list(sys.path)
    make(load_factory(net_file, "flexible"), "file:", classes=2)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flexibel", "unknown function in net.py 'flexibel'; did you mean 'flexible'"),
        ("constant", "unknown function in net.py 'constant'"),
        ("impossible", "needs the argument 'depth', and it is unknown"),
        ("flexible", "needs the argument 'classes', and nothing states it: use --classes"),
        ("no_network", "returned a str, not a torch nn.Module"),
    ],
)
def test_what_makes_no_network_is_refused(net_file, name, message):
    with pytest.raises(ValueError, match=message):
        make(load_factory(net_file, name), "file:net.py", classes=None)


@pytest.mark.parametrize("name", ["missing.py", "folder", "notes.txt"])
def test_what_is_no_python_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="no Python file"):
        load_factory(tmp_path / name, "make_net")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import absent_package\n", "line 1 of .*net.py raised ModuleNotFoundError: No module"),
        ("x = 1\ndef make_net(:\n", "line 2 of .*net.py raised SyntaxError: invalid syntax"),
        ("def make_net():\n    raise RuntimeError('boom')\n", "line 2 of .* RuntimeError: boom"),
    ],
)
def test_what_the_file_raises_is_blamed_on_its_line(tmp_path, code, message):
    (tmp_path / "net.py").write_text(code)
    with pytest.raises(ValueError, match=message):
        make(load_factory(tmp_path / "net.py", "make_net"), "file:net.py", classes=None)
