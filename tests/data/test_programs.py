"""Exported programs: they answer as the network did, and carry no code."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from doublure.data.checkpoints import CheckpointError
from doublure.data.programs import program_shapes, read_extra, read_program

GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn(self.conv(images)).relu().mean((2, 3)))


def export(network: nn.Module, path: Path, *shape: int, batch: Any = "batch") -> None:
    dynamic = None if batch is None else ({0: torch.export.Dim(batch)},)
    program = torch.export.export(network.eval(), (torch.ones(shape),), dynamic_shapes=dynamic)
    torch.export.save(program, path, extra_files={"note.txt": "hello"})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("programs") / "tiny.pt2"
    network = Tiny()
    export(network, path, 2, 3, 8, 8)
    return network, path


def edited(path: Path, target: Path, record: str, edit: Callable[[Any], Any]) -> Path:
    """Write a copy of a program with one of its JSON records changed, checksums and all."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(record):
                value = json.loads(content)
                content = json.dumps(edit(value) or value).encode()
            copy.writestr(name, content)
    return target


def test_a_program_answers_as_its_network(tiny):
    network, path = tiny
    images = torch.rand(3, 3, 8, 8)
    program = read_program(path)
    torch.testing.assert_close(program(images), network(images), atol=0.0, rtol=0.0)


def test_a_program_stands_train_and_eval(tiny):
    network, path = tiny
    program = nn.Sequential(read_program(path)).train().eval()
    torch.testing.assert_close(program(torch.ones(1, 3, 8, 8)), network(torch.ones(1, 3, 8, 8)))


def test_a_program_tells_its_shapes(tiny):
    assert program_shapes(read_program(tiny[1])) == ((None, 3, 8, 8), (None, 5))


def test_what_was_saved_beside_a_program_can_be_read(tiny):
    assert read_extra(tiny[1], "note.txt") == "hello"
    assert read_extra(tiny[1], "other.txt") is None


def test_a_fixed_batch_size_is_refused(tmp_path):
    export(Tiny(), tmp_path / "one.pt2", 1, 3, 8, 8, batch=None)
    with pytest.raises(CheckpointError, match="for batches of exactly 1"):
        program_shapes(read_program(tmp_path / "one.pt2"))


def test_a_program_of_no_images_is_refused(tmp_path):
    export(nn.Linear(4, 3), tmp_path / "flat.pt2", 2, 4)
    with pytest.raises(CheckpointError, match=r"takes shape \(None, 4\)"):
        program_shapes(read_program(tmp_path / "flat.pt2"))


def guard(graph: Any) -> None:
    graph["guards_code"] = ["__import__('pathlib').Path('trap').touch() or True"]


def rename_input(graph: Any) -> Any:
    # Names become the arguments of a Python function that is compiled.
    name = "images=__import__('pathlib').Path('trap').touch()"
    return json.loads(json.dumps(graph).replace('"images"', json.dumps(name)))


def size_that_runs(graph: Any) -> Any:
    text = json.dumps(graph)
    start = text.index('"expr_str": "') + len('"expr_str": ')
    end = text.index('", "', start) + 1
    return json.loads(text[:start] + "\"open('trap', 'w')\"" + text[end:])


def size_of_a_name(graph: Any) -> Any:
    return json.loads(json.dumps(size_that_runs(graph)).replace("open('trap', 'w')", "s0 + exit"))


def foreign_operator(graph: Any) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"


def file_operator(graph: Any) -> None:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


def importing_spec(graph: Any) -> None:
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    signature["out_spec"] = signature["out_spec"].replace(
        '"type": null', '"type": "collections.defaultdict"'
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename_input, "asks for .images=__import__"),
        (size_that_runs, r"open\('trap', 'w'\).*expr_str"),
        (size_of_a_name, r"s0 \+ exit.*expr_str"),
        (foreign_operator, r"'torch\.hub\.load' \(target\)"),
        (file_operator, r"from_file\.default' \(target\)"),
        (importing_spec, "collections.defaultdict.*out_spec"),
    ],
)
def test_a_graph_that_would_run_code_is_refused(tiny, tmp_path, monkeypatch, edit, message):
    monkeypatch.chdir(tmp_path)
    path = edited(tiny[1], tmp_path / "evil.pt2", GRAPH, edit)
    with pytest.raises(CheckpointError, match=message):
        read_program(path)
    assert not Path("trap").exists()


def test_guard_code_is_left_behind(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = read_program(edited(tiny[1], tmp_path / "evil.pt2", GRAPH, guard))
    program(torch.ones(1, 3, 8, 8))
    assert not Path("trap").exists()


def test_pickled_weights_in_a_program_are_refused(tiny, tmp_path):
    def pickle_first(config: Any) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    path = edited(tiny[1], tmp_path / "evil.pt2", WEIGHTS, pickle_first)
    with pytest.raises(CheckpointError, match=r"'conv\.weight' is pickled"):
        read_program(path)


def test_a_weight_from_elsewhere_in_the_archive_is_refused(tiny, tmp_path):
    def point_elsewhere(config: Any) -> None:
        next(iter(config["config"].values()))["path_name"] = "../../models/model.json"

    path = edited(tiny[1], tmp_path / "evil.pt2", WEIGHTS, point_elsewhere)
    with pytest.raises(CheckpointError, match="not a raw tensor"):
        read_program(path)


def test_infinite_weights_in_a_program_are_refused(tmp_path):
    network = Tiny()
    with torch.no_grad():
        network.head.bias[0] = float("inf")
    export(network, tmp_path / "inf.pt2", 2, 3, 8, 8)
    with pytest.raises(CheckpointError, match=r"1 of 5 values of 'head\.bias'"):
        read_program(tmp_path / "inf.pt2")


@pytest.mark.parametrize("cut", [1, 100, 5000, -1, -100])
def test_a_truncated_program_is_refused(tiny, tmp_path, cut):
    (tmp_path / "cut.pt2").write_bytes(tiny[1].read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"truncated, damaged|holds no"):
        read_program(tmp_path / "cut.pt2")


def test_a_flipped_weight_in_a_program_is_noticed(tiny, tmp_path):
    content = bytearray(tiny[1].read_bytes())
    with zipfile.ZipFile(tiny[1]) as archive:
        record = archive.getinfo(archive.namelist()[0])
    content[record.header_offset + 200] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_program(tmp_path / "flipped.pt2")


def test_an_archive_without_a_graph_is_refused(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "weights.pt2")
    with pytest.raises(CheckpointError, match=r"holds no models/model\.json"):
        read_program(tmp_path / "weights.pt2")


def test_every_byte_of_the_graph_may_be_wrong(tiny, tmp_path):
    rng = torch.Generator().manual_seed(0)
    for _ in range(60):

        def scramble(text: str) -> str:
            place = int(torch.randint(len(text), (1,), generator=rng))
            other = chr(int(torch.randint(32, 127, (1,), generator=rng)))
            return text[:place] + other + text[place + 1 :]

        with zipfile.ZipFile(tiny[1]) as archive, zipfile.ZipFile(tmp_path / "x.pt2", "w") as copy:
            for name in archive.namelist():
                content = archive.read(name)
                if name.endswith(GRAPH):
                    content = scramble(content.decode()).encode()
                copy.writestr(name, content)
        try:
            read_program(tmp_path / "x.pt2")
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017  # it may as well be read: both are right
