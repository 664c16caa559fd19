"""The verb `export`."""

from pathlib import Path

import pytest
import torch

from doublure.core.protocols import InputContract
from doublure.nets.network import Network
from doublure.verbs.export import export
from tests import tiny

CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=3)


def network() -> Network:
    return Network(tiny.network(0), CONTRACT).eval()


def test_a_module_leaves_calibrated_on_images_of_the_user(tmp_path: Path) -> None:
    said: list[str] = []
    formats = ("onnx", "int8-onnx")
    rows = export(
        network(), out=tmp_path, format=formats, calibration="builtin/digits", say=said.append
    )
    assert [row.form for row in rows] == ["onnx", "int8-onnx"]
    assert rows[1].accuracy is None
    assert said == []


def test_without_images_int8_is_calibrated_on_shaders_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    export(network(), out=tmp_path, format=("int8-onnx",), say=said.append)
    assert said == ["int8-onnx is calibrated on shaders, as no images were given"]
    assert (tmp_path / "student.int8.onnx").exists()


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(network(), out=tmp_path / name, format=("int8-onnx",), calibration="noise")
    one, two = (tmp_path / name / "student.int8.onnx" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_each_form_is_scored_where_there_are_labels(tmp_path: Path) -> None:
    ten = Network(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
        InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=10),
    )
    (row,) = export(ten, out=tmp_path, format=("onnx",), calibration="noise", eval="builtin/digits")
    assert row.accuracy is not None
    assert 0 <= row.accuracy <= 1


def test_a_module_that_says_nothing_of_its_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no input contract"):
        export(tiny.network(0), out=tmp_path)
