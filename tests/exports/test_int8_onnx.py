"""Networks as eight-bit ONNX."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array
from torch import Tensor, nn

from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.core.protocols import image_batch
from doublure.core.seeding import from_seed
from doublure.exports import exporting
from doublure.exports.int8_onnx import Int8, export_int8_onnx
from doublure.exports.measure import Timing
from doublure.exports.onnx import (
    count_quantize_nodes,
    count_weight_bytes,
    description_of,
    export_onnx,
    open_session,
)
from doublure.nets.builtin import build
from doublure.nets.network import Network
from doublure.nets.vit import VisionTransformer
from doublure.networks import load
from doublure.tasks import TASKS
from tests.exports.conftest import CONTRACT, images

export_network = functools.partial(
    exporting.export_network, tasks=TASKS, loader="doublure.networks"
)


class OneToOne(nn.Module):
    """A convolution that changes nothing, so that ranges can be told by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1)[:, :3]


class Summing(nn.Module):
    """Three classes, each the sum of all pixels; in the third, the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 8, bias=False)
        nn.init.ones_(self.conv.weight[:2])
        nn.init.constant_(self.conv.weight[2], -1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1)


class Residual(OneToOne):
    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + x).flatten(1)[:, :3]


class Backwards(nn.Module):
    """The convolution that is defined first is called last, on what is much larger."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(1, 1, 1, bias=False)
        self.first = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.last.weight)
        nn.init.constant_(self.first.weight, 20.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)).flatten(1)[:, :3]


class ZeroMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]


def scales(path: Path) -> list[float]:
    """Scales of the activations, in the order of the graph."""
    graph = onnx.load(path).graph
    values = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    return [float(values[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear"]


def test_it_answers_nearly_as_the_float_file(
    float_file: Path, int8_file: Path, probe: Tensor
) -> None:
    feed = {"images": probe.numpy()}
    floats, rounded = (open_session(path, 1).run(None, feed)[0] for path in (float_file, int8_file))
    assert 0 < np.abs(floats - rounded).max() < 0.05 * np.ptp(floats)


def test_weights_are_int8_with_one_scale_an_output_channel(int8_file: Path) -> None:
    graph = onnx.load(int8_file).graph
    shapes = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    (weight,) = (
        node for node in graph.node if shapes.get(node.input[0], (0, ()))[1] == (16, 1, 3, 3)
    )
    assert weight.op_type == "DequantizeLinear"
    assert shapes[weight.input[0]][0] == onnx.TensorProto.INT8
    assert shapes[weight.input[1]] == (onnx.TensorProto.FLOAT, (16,))


def weights_of(path: Path) -> list[np.ndarray]:
    """Integers of more than one dimension, in the order of the file."""
    stored = [to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    return [one for one in stored if one.ndim > 1 and one.dtype != np.float32]


def test_weights_leave_a_bit_so_that_no_kernel_saturates(int8_file: Path) -> None:
    # 2 products of a uint8 and a weight must fit into 16 bits: 2 * 255 * 64 = 32640.
    assert {np.abs(one.astype(int)).max() for one in weights_of(int8_file)} == {64}


def test_the_largest_sums_come_out_right_on_any_processor(tmp_path: Path) -> None:
    export_onnx(Network(Summing(), CONTRACT), tmp_path / "net.onnx")
    shown = torch.zeros(2, 1, 8, 8)
    shown[1] = 1.0
    export_int8_onnx(tmp_path / "net.onnx", tmp_path / "int8.onnx", [shown], Int8())
    feed = {"images": shown.numpy()}
    floats, rounded = (
        open_session(tmp_path / name, 1).run(None, feed)[0] for name in ("net.onnx", "int8.onnx")
    )
    np.testing.assert_allclose(rounded, floats, rtol=0.02, atol=0.02 * np.abs(floats).max())


def test_eight_bits_can_be_had(float_file: Path, tmp_path: Path) -> None:
    export_int8_onnx(float_file, tmp_path / "8.onnx", [images(16)], Int8(reduce_range=False))
    assert {np.abs(one.astype(int)).max() for one in weights_of(tmp_path / "8.onnx")} == {127}


def test_operations_that_are_not_fused_are_float_arithmetic(int8_file: Path, probe: Tensor) -> None:
    feed = {"images": probe.numpy()}
    fused, plain = (
        open_session(int8_file, 1, fused=fused).run(None, feed)[0] for fused in (True, False)
    )
    np.testing.assert_allclose(fused, plain, atol=0.02 * np.ptp(plain))


def test_activations_are_uint8_over_the_calibrated_range_by_hand(tmp_path: Path) -> None:
    export_onnx(Network(OneToOne(), CONTRACT), tmp_path / "net.onnx")
    black_and_white = torch.zeros(2, 1, 8, 8)
    black_and_white[1] = 1.0
    export_int8_onnx(tmp_path / "net.onnx", tmp_path / "int8.onnx", [black_and_white], Int8())
    # Normalised: (0 - 0.4) / 0.3 to (1 - 0.4) / 0.3, in 255 steps.
    assert scales(tmp_path / "int8.onnx")[0] == pytest.approx(1 / 0.3 / 255, rel=1e-5)


def test_a_percentile_cuts_an_outlier_off(tmp_path: Path) -> None:
    export_onnx(Network(OneToOne(), CONTRACT), tmp_path / "net.onnx")
    grey = torch.full((40, 1, 8, 8), 0.4) + 0.05 * images(40)
    grey[0, 0, 0, 0] = 1.0
    wide, narrow = tmp_path / "wide.onnx", tmp_path / "narrow.onnx"
    export_int8_onnx(tmp_path / "net.onnx", wide, [grey], Int8())
    settings = Int8(method="percentile", percentile=99.0)
    export_int8_onnx(tmp_path / "net.onnx", narrow, [grey], settings)
    assert scales(narrow)[0] < 0.2 * scales(wide)[0]


def test_the_logits_themselves_are_not_rounded(int8_file: Path) -> None:
    graph = onnx.load(int8_file).graph
    (last,) = (node for node in graph.node if "logits" in node.output)
    assert last.op_type == "Gemm"


def test_the_file_is_a_fraction_of_the_float_file_from_a_quarter_million_parameters(
    tmp_path: Path,
) -> None:
    network = Network(build("resnet20", classes=3, channels=1), CONTRACT).eval()
    floats, rounded = tmp_path / "net.onnx", tmp_path / "int8.onnx"
    export_onnx(network, floats)
    export_int8_onnx(floats, rounded, [images(16)], Int8())
    assert rounded.stat().st_size <= 0.30 * floats.stat().st_size
    weights = [count_weight_bytes(onnx.load(path)) for path in (rounded, floats)]
    assert weights[0] <= 0.27 * weights[1]
    assert count_quantize_nodes(onnx.load(rounded)) > 2 * 20


def test_a_transformer_keeps_its_residual_stream_in_float(tmp_path: Path) -> None:
    body = VisionTransformer(dim=12, depth=1, heads=2, classes=3, channels=1, size=(8, 8))
    network = Network(body, CONTRACT).eval()
    export_onnx(network, tmp_path / "net.onnx")
    export_int8_onnx(tmp_path / "net.onnx", tmp_path / "int8.onnx", [images(8)], Int8())
    graph = onnx.load(tmp_path / "int8.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    read_by_norm = [made_by[n.input[0]] for n in graph.node if n.op_type == "LayerNormalization"]
    assert "DequantizeLinear" not in read_by_norm
    assert count_quantize_nodes(onnx.load(tmp_path / "int8.onnx")) > 0


def test_the_contract_and_the_free_batch_come_along(float_file: Path, int8_file: Path) -> None:
    floats, rounded = onnx.load(float_file), onnx.load(int8_file)
    onnx.checker.check_model(rounded, full_check=True)
    assert description_of(rounded) == description_of(floats)
    assert rounded.graph.input[0].type == floats.graph.input[0].type


def test_the_same_calibration_gives_the_same_bytes(
    float_file: Path, int8_file: Path, tmp_path: Path
) -> None:
    export_int8_onnx(float_file, tmp_path / "again.onnx", [images(64)], Int8())
    assert (tmp_path / "again.onnx").read_bytes() == int8_file.read_bytes()


def test_how_calibration_images_are_batched_does_not_matter(
    float_file: Path, int8_file: Path, tmp_path: Path
) -> None:
    export_int8_onnx(float_file, tmp_path / "again.onnx", images(64).split(10), Int8())
    assert (tmp_path / "again.onnx").read_bytes() == int8_file.read_bytes()


def test_no_more_images_are_drawn_than_needed(float_file: Path, tmp_path: Path) -> None:
    drawn = []

    def draw() -> Iterator[Tensor]:
        for seed in range(100):
            drawn.append(seed)
            yield images(10, seed)

    export_int8_onnx(float_file, tmp_path / "few.onnx", draw(), Int8(num_images=25))
    assert drawn == [0, 1, 2]


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_quantization_says_nothing(
    float_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], method: str
) -> None:
    export_int8_onnx(float_file, tmp_path / "int8.onnx", [images(20)], Int8(method=method))
    assert capfd.readouterr() == ("", "")


def test_calibration_images_of_another_size_are_refused(float_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"network's shape \(1, 8, 8\), got \(3, 32, 32\)"):
        export_int8_onnx(float_file, tmp_path / "no.onnx", [torch.rand(2, 3, 32, 32)], Int8())


def test_no_calibration_images_are_refused(float_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs calibration images, got none"):
        export_int8_onnx(float_file, tmp_path / "no.onnx", [], Int8())


def test_a_network_with_nothing_to_quantize_is_refused(tmp_path: Path) -> None:
    export_onnx(Network(ZeroMean(), CONTRACT), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"nothing in net\.onnx can be quantized"):
        export_int8_onnx(tmp_path / "net.onnx", tmp_path / "no.onnx", [images(4)], Int8())
    assert not (tmp_path / "no.onnx").exists()


def test_a_percentile_that_is_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"percentile must lie in \(50, 100\], got 0.999"):
        Int8(percentile=0.999)


def test_a_network_that_rounds_leaves_as_it_answers(tmp_path: Path) -> None:
    network = load("builtin/resnet8-0.5", like=CONTRACT).eval()
    shown = [image_batch(images(32))]
    rounded = PostTrainingQuantization()(network, shown, from_seed(0))
    formats = ["onnx", "pt2", "safetensors", "int8-onnx"]
    timing = Timing(batch_size=4, rounds=3, seconds=0.1)
    rows = export_network(rounded, tmp_path, formats, [images(32)], images(16), timing=timing)
    assert [row.agreement for row in rows] == [1.0] * 4
    # All eight bits are taken, around 128, which no kernel saturates at.
    assert {one.dtype.name for one in weights_of(tmp_path / "student.int8.onnx")} == {"uint8"}
    five = PostTrainingQuantization(weight_bits=5, first_last_bits=0, activation_bits=8)
    rounded = five(network, shown, from_seed(0))
    *_, row = export_network(
        rounded, tmp_path / "5", ["int8-onnx"], [images(32)], images(16), timing=timing
    )
    assert row.agreement == 1.0
    kept = weights_of(tmp_path / "5" / "student.int8.onnx")
    assert {one.dtype.name for one in kept} == {"int8"}
    assert {np.abs(one).max() for one in kept} == {15}
    four = PostTrainingQuantization(activation_bits=4)(network, shown, from_seed(0))
    with pytest.raises(ValueError, match="rounds to 4 bits, which the runtime's eight-bit kernels"):
        export_network(four, tmp_path, ["int8-onnx"], [images(32)], images(16), timing=timing)


def test_what_is_rounded_for_a_product_reaches_a_shortcut_as_it_is(tmp_path: Path) -> None:
    network = Network(Residual(), CONTRACT).eval()
    dim = [image_batch(0.4 + 0.05 * images(32))]
    # Calibrated on dim images: of bright ones the product clips, and the shortcut must not.
    rounds = PostTrainingQuantization()(network, dim, from_seed(0))
    probe = images(16)
    timing = Timing(batch_size=4, rounds=3, seconds=0.1)
    export_network(rounds, tmp_path, ["int8-onnx"], [images(32)], probe, timing=timing)
    session = open_session(tmp_path / "student.int8.onnx", 1)
    (answers,) = session.run(None, {"images": probe.numpy()})
    with torch.no_grad():
        expected, floats = rounds(probe).numpy(), network(probe).numpy()
    assert np.abs(expected - floats).max() > 0.2
    np.testing.assert_allclose(answers, expected, atol=1e-3)


@pytest.mark.parametrize(
    "body",
    [
        Backwards(),
        VisionTransformer(dim=12, depth=1, heads=2, classes=3, channels=1, size=(8, 8)),
    ],
    ids=["called in another order", "with products of activations"],
)
def test_each_product_takes_the_grid_of_its_own_layer(tmp_path: Path, body: nn.Module) -> None:
    shown = [image_batch(images(32))]
    rounds = PostTrainingQuantization()(Network(body, CONTRACT).eval(), shown, from_seed(0))
    probe = images(16)
    timing = Timing(batch_size=4, rounds=3, seconds=0.1)
    export_network(rounds, tmp_path, ["int8-onnx"], [images(32)], probe, timing=timing)
    (answers,) = open_session(tmp_path / "student.int8.onnx", 1).run(
        None, {"images": probe.numpy()}
    )
    with torch.no_grad():
        expected = rounds(probe).numpy()
    np.testing.assert_allclose(answers, expected, atol=0.02 * np.ptp(expected))
