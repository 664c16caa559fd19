"""Networks as float32 ONNX."""

import copy
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from doublure.engine.description import describe
from doublure.exports import onnx as onnx_room
from doublure.exports.onnx import (
    count_quantize_nodes,
    count_weight_bytes,
    description_of,
    export_onnx,
    open_session,
)
from doublure.nets.memory_format import to_channels_last_
from doublure.nets.network import Network, count_parameters
from tests.exports.conftest import CONTRACT, images


class FirstThree(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]


class HasNoOnnxForm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[:, 0]).real[:, :3]


@pytest.mark.parametrize("count", [1, 7])
def test_the_runtime_answers_as_the_network_does(
    network: Network, float_file: Path, count: int
) -> None:
    answer = open_session(float_file, 1).run(["logits"], {"images": images(count).numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(answer, network(images(count)).numpy(), atol=1e-5)


def test_normalisation_is_inside_by_hand(tmp_path: Path) -> None:
    export_onnx(Network(FirstThree(), CONTRACT), tmp_path / "net.onnx")
    image = np.full((1, 1, 8, 8), 0.7, np.float32)
    answer = open_session(tmp_path / "net.onnx", 1).run(None, {"images": image})[0]
    np.testing.assert_allclose(answer, [[1.0, 1.0, 1.0]], rtol=1e-6)  # (0.7 - 0.4) / 0.3


def test_the_file_is_valid_and_its_batch_is_free(float_file: Path) -> None:
    model = onnx.load(float_file)
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("images", "logits")
    shape = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert shape == ["batch", 1, 8, 8]


def test_batch_normalisation_is_folded_and_dropout_gone(float_file: Path) -> None:
    kinds = {node.op_type for node in onnx.load(float_file).graph.node}
    assert not kinds & {"BatchNormalization", "Dropout"}


def test_the_contract_stands_in_the_metadata(network: Network, float_file: Path) -> None:
    assert description_of(onnx.load(float_file)) == describe(network)


def test_the_file_says_nothing_about_this_machine(float_file: Path) -> None:
    content = float_file.read_bytes()
    assert str(Path.cwd()).encode() not in content
    assert b"network.py" not in content


def test_a_float_file_weighs_four_bytes_a_parameter(network: Network, float_file: Path) -> None:
    model = onnx.load(float_file)
    # Batch normalisation's weight and bias become the convolution's; mean and std come on top.
    folded = count_parameters(network) - 2 * 16
    assert 4 * folded <= count_weight_bytes(model) < 4 * folded + 100
    assert count_quantize_nodes(model) == 0


def test_the_same_network_gives_the_same_bytes(
    network: Network, float_file: Path, tmp_path: Path
) -> None:
    export_onnx(network, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == float_file.read_bytes()


def test_a_channels_last_network_leaves_as_the_same_graph(
    network: Network, float_file: Path, tmp_path: Path
) -> None:
    last = copy.deepcopy(network)
    assert to_channels_last_(last)
    export_onnx(last, tmp_path / "last.onnx")
    ours, theirs = (onnx.load(path).graph for path in (tmp_path / "last.onnx", float_file))
    assert [node.op_type for node in ours.node] == [node.op_type for node in theirs.node]
    answers = [
        open_session(path, 1).run(None, {"images": images(4).numpy()})[0]
        for path in (tmp_path / "last.onnx", float_file)
    ]
    np.testing.assert_array_equal(*answers)


def test_export_says_nothing(
    network: Network,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        export_onnx(network, tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_an_operation_without_onnx_form_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no ONNX form \(.*eig.*\); export pt2") as caught:
        export_onnx(Network(HasNoOnnxForm(), CONTRACT), tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_network_beyond_protobuf_is_refused_before_work(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_room, "_LARGEST", 1000)
    with pytest.raises(ValueError, match=r"holds at most 1000 bytes, got \d+; export pt2"):
        export_onnx(network, tmp_path / "net.onnx")
