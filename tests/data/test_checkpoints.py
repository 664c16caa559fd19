"""Files of weights: every common wrapping is taken off, and nothing in a file ever runs."""

import argparse
import collections
import datetime
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from doublure.data import checkpoints
from doublure.data.checkpoints import CheckpointError, read_safetensors


def read_weights(path: Path, **options: str) -> dict[str, Tensor]:
    return checkpoints.read_weights(path, **options).tensors


def some_state() -> dict[str, Tensor]:
    return {"conv.weight": torch.arange(4.0).view(2, 2), "bn.count": torch.tensor(7)}


def saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin", ".ckpt", ".tar"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_come_back_as_they_were(tmp_path, suffix, zipped):
    path = saved(tmp_path / f"w{suffix}", some_state(), _use_new_zipfile_serialization=zipped)
    assert_same(read_weights(path), some_state())


def test_safetensors_come_back_as_they_were(tmp_path):
    safetensors.torch.save_file(some_state(), tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").keys() == some_state().keys()


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": some_state(), "epoch": 3, "best": 0.5},
        {"model": some_state(), "optimizer": {"state": {0: {"m": torch.ones(1)}}}},
        {"model": {"state_dict": some_state(), "depth": 20}},
        {"model_state_dict": some_state()},
        {"teacher": some_state()},
        {"state_dict": some_state(), "state_dict_ema": {"conv.weight": torch.zeros(2, 2)}},
        {"ema": {"module": some_state(), "decay": 0.99}},
        {"ema": {"shadow": some_state(), "updates": 12}},
        {"a name nobody knows": some_state(), "epoch": 3},
    ],
)
def test_what_is_wrapped_around_weights_is_taken_off(tmp_path, wrapped):
    assert_same(read_weights(saved(tmp_path / "w.pth", wrapped)), some_state())


def both_sets() -> dict[str, dict[str, Tensor]]:
    return {"state_dict": some_state(), "state_dict_ema": {"conv.weight": torch.zeros(2, 2)}}


def test_of_weights_and_their_moving_average_the_weights_are_taken_and_it_is_said(tmp_path):
    path = saved(tmp_path / "w.pth", both_sets())
    read = checkpoints.read_weights(path)
    assert_same(read.tensors, some_state())
    assert "state_dict is taken; --weights-key takes another: state_dict_ema" in read.notes[0]


def test_the_moving_average_is_taken_when_asked_for(tmp_path):
    path = saved(tmp_path / "w.pth", both_sets())
    assert_same(read_weights(path, key="state_dict_ema"), both_sets()["state_dict_ema"])


@pytest.mark.parametrize("key", ["net.g", "g"])
def test_a_set_is_named_by_its_place_or_the_last_part_of_it(tmp_path, key):
    content = {"net": {"g": some_state(), "d": {"x.weight": torch.ones(1, 1)}}}
    assert_same(read_weights(saved(tmp_path / "w.pth", content), key=key), some_state())


def test_a_key_may_be_what_stands_before_the_names(tmp_path):
    state = {
        f"{who}.{name}": t for who in ("teacher", "student") for name, t in some_state().items()
    }
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors", key="student")
    assert read.keys() == some_state().keys()


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = saved(tmp_path / "w.pth", both_sets())
    with pytest.raises(
        CheckpointError, match="no weights under 'ema'; it has: state_dict, state_d"
    ):
        read_weights(path, key="ema")


def test_a_key_where_there_is_one_set_is_refused(tmp_path):
    path = saved(tmp_path / "w.pth", {"a.weight": torch.ones(1, 1), "a.bias": torch.ones(1)})
    with pytest.raises(CheckpointError, match="leave --weights-key out"):
        read_weights(path, key="ema")


def test_weights_know_nothing_of_gradients(tmp_path):
    path = saved(tmp_path / "w.pth", {"weight": nn.Parameter(torch.ones(2))})
    assert not read_weights(path)["weight"].requires_grad


def test_names_are_kept_exactly_where_asked(tmp_path):
    state = {"model.weight": torch.ones(1)}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert_same(read_safetensors(tmp_path / "w.safetensors"), state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "an empty dictionary"),
        ({"state_dict": {}}, "no weights, only state_dict"),
        ({"epoch": 3, "lr": 0.1}, "only epoch, lr"),
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
        ({3: torch.ones(1)}, "no weights, only 3"),
        (
            {"student": some_state(), "teacher": some_state()},
            "several sets of weights .student, teacher.; say which: --weights-key student",
        ),
        ({"first": some_state(), "second": some_state()}, "several sets .* .first, second"),
        ({"weight": torch.tensor([1.0, float("nan"), float("inf")])}, "2 of 3 values of 'weight'"),
        ({"weight": torch.ones(2, 2).to_sparse()}, "holds tensors that are sparse"),
        ({"a": torch.ones(1), "b": torch.eye(2).to_sparse()}, "'b' is sparse, not a plain tensor"),
        ({"weight": torch.ones(1).expand(1 << 40)}, "which the file does not hold"),
    ],
)
def test_what_is_not_weights_is_refused(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message):
        read_weights(saved(tmp_path / "w.pth", content))


def test_infinite_values_hide_in_no_number_format(tmp_path):
    broken = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match="1 of 2 values of 'weight'"):
        read_weights(saved(tmp_path / "w.pth", {"weight": broken}))


class Malicious:
    """Unpickled by trusting code, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_runs_nothing_and_its_weights_are_read(tmp_path, zipped):
    trap = tmp_path / "trap"
    content = {"state_dict": some_state(), "extra": Malicious(trap)}
    path = saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=zipped)
    read = checkpoints.read_weights(path)
    assert_same(read.tensors, some_state())
    assert read.notes == (f"{path}: set aside, and not run: posix.mkdir",)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()


def things_beside_weights() -> dict[str, object]:
    """Return what training scripts save beside the weights, by kind."""
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "best_acc1": torch.tensor(71.2),
        "best_loss": torch.tensor(float("inf")),
        "mean": torch.tensor([0.5]),
        "numpy scalar": np.float64(0.5),
        "numpy array": np.eye(3),
        "args": argparse.Namespace(lr=0.1, out=Path("x")),
        "date": datetime.datetime(2024, 1, 2),
        "path": Path("runs/3"),
        "history": collections.defaultdict(list, {"loss": [1.0, 0.5]}),
        "counter": collections.Counter("aab"),
        "version": torch.__version__,
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "rng": {"torch": torch.get_rng_state(), "numpy": np.random.RandomState(0).get_state()},
        "activation": nn.GELU,
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "a set": {1, 2},
        "complex": 1j,
        "a network": module,
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", things_beside_weights())
def test_what_lies_beside_the_weights_stops_nothing(tmp_path, kind, zipped):
    content = {"state_dict": some_state(), kind: things_beside_weights()[kind]}
    path = saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=zipped)
    assert_same(read_weights(path), some_state())


@pytest.mark.parametrize(
    "kind", sorted(things_beside_weights().keys() - {"a network", "optimizer"})
)
def test_what_lies_between_the_weights_stops_nothing(tmp_path, kind):
    thing = things_beside_weights()[kind]
    read = read_weights(saved(tmp_path / "w.pth", {**some_state(), kind: thing}))
    assert_same({name: read[name] for name in some_state()}, some_state())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_network_gives_its_weights_and_nothing_of_it_runs(tmp_path, zipped):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ModuleDict({"bn": nn.BatchNorm2d(2)}))
    network.register_buffer("mask", torch.ones(2), persistent=False)
    path = saved(tmp_path / "w.pth", network, _use_new_zipfile_serialization=zipped)
    assert_same(read_weights(path), dict(network.state_dict()))
    path = saved(tmp_path / "w.pth", {"model": nn.DataParallel(network), "epoch": 3})
    wrapped = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    assert_same(read_weights(path), wrapped)


def test_a_plain_pickle_is_no_checkpoint(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(CheckpointError, match="a pickle that torch did not write"):
        read_weights(tmp_path / "w.pth")


# Its own deprecation: which category, depends on the version of torch.
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_gives_its_weights_without_being_run(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    torch.jit.save(torch.jit.trace(network, torch.ones(1, 1, 4, 4)), tmp_path / "w.pt")
    read = read_weights(tmp_path / "w.pt")
    assert sorted(read) == sorted(network.state_dict())
    assert_same({name: read[name] for name in network.state_dict()}, dict(network.state_dict()))


def test_an_archive_that_was_compressed_later_is_read(tmp_path):
    path = saved(tmp_path / "w.pth", some_state())
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert_same(read_weights(tmp_path / "packed.pth"), some_state())


def test_an_exported_program_under_another_name_is_recognised(tmp_path):
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "w.pt2")
    (tmp_path / "w.pt2").rename(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"give it the suffix \.pt2"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.pth", "no file .*missing.pth"),
        ("folder", "is a folder.*name the file, e.g. .*best.pth"),
        ("empty.pth", "is empty: 0 bytes"),
        ("notes.txt", "not named as a file of weights; known: .bin"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "best.pth").touch()
    (tmp_path / "empty.pth").touch()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / name)


@pytest.fixture(scope="module")
def valid_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("valid")
    state = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).state_dict()
    saved(folder / "new.pth", {"state_dict": state, "epoch": 3})
    saved(folder / "old.th", {"state_dict": state}, _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, folder / "safe.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=150)
@given(data=st.data())
@pytest.mark.parametrize("name", ["new.pth", "old.th", "safe.safetensors"])
def test_damage_is_read_or_refused_in_one_line(tmp_path_factory, valid_files, name, data):
    content = bytearray(valid_files[name])
    places = st.integers(0, len(content) - 1)
    # The structure lies in the front; a flipped weight is just another weight.
    front = st.integers(0, min(len(content), 2000) - 1)
    for place in data.draw(st.lists(front | places, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    path.write_bytes(content[: data.draw(st.just(len(content)) | places)])
    try:
        read_weights(path)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017  # it may as well be read: both are right
