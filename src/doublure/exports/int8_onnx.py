"""Eight-bit ONNX: static quantization that the runtime's int8 kernels execute.

q(x) = clip(round(x / scale) + zero_point). Weights: int8, symmetric, one scale per output channel.
Activations: uint8, one scale and zero_point per tensor, from the range on calibration images. The
graph keeps float operations between QuantizeLinear and DequantizeLinear pairs (QDQ); the runtime
fuses each into an integer kernel.

On an x86 processor without VNNI instructions, that kernel adds two products of a uint8 and an int8
in 16 bits, and 2 * 255 * 127 exceeds them: it saturates silently. So weights use seven of the eight
bits, |w| <= 64, and a file has the same outputs on all machines (benchmarks/int8.py measures the
costs and gains of eight).

The kind of network determines the quantized operations. In a convolutional one these are all
operations with an integer kernel, so that activations stay uint8 from layer to layer. With layer
normalisation or softmax these are only products with weights: the runtime has no integer kernel for
the rest, and conversions cost time (benchmarks/int8.py, a small vision transformer: 1.8 times the
speed of float32, against 1.6). The output of the last product is not rounded.

For a network that is already quantized, its own grids are used, nothing else is rounded, and the
file's outputs match the network's. Weights that need all eight bits are stored as uint8 around 128,
for which such a processor has a slower kernel without saturation.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from jaxtyping import Float
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.quant_utils import QuantFormat, QuantType
from onnxruntime.quantization.quantize import quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from doublure.core.checks import one_of, positive
from doublure.engine.description import INPUT
from doublure.exports.onnx import count_quantize_nodes, description_of, write_lean
from doublure.nets.quantized import Grid

_METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_IN_BETWEEN = (
    *("Add", "Mul", "Concat", "Relu", "LeakyRelu", "Clip", "Sigmoid", "MaxPool", "AveragePool"),
    *("GlobalAveragePool", "Pad", "Resize", "Split", "Reshape", "Flatten", "Transpose"),
    *("Squeeze", "Unsqueeze"),
)
_FLOAT_ONLY = {"LayerNormalization", "RMSNormalization", "Softmax"}
_BATCH = 16
_INT8_HIGHEST = 127


@dataclass(frozen=True, kw_only=True)
class Int8:
    """Settings of activation ranges and weight bits.

    Args:
        method: "minmax" uses the full range; "percentile" clips rare outliers.
        percentile: share of the values kept, in percent; for "percentile" only.
        num_images: maximum number of calibration images.
        reduce_range: use 7-bit weights, which do not saturate on any processor; with 8 bits the
            file needs VNNI, or a processor other than x86. A quantized network keeps its own bits.
    """

    method: Literal["minmax", "percentile"] = "minmax"
    percentile: float = 99.999
    num_images: int = 512
    reduce_range: bool = True

    def __post_init__(self) -> None:
        one_of("calibration method", self.method, _METHODS)
        positive("num_images", self.num_images)
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must lie in (50, 100], got {self.percentile}")


def export_int8_onnx(
    source: Path,
    path: Path,
    calibration: Iterable[Tensor],
    settings: Int8,
    grids: Sequence[Grid] = (),
) -> None:
    """Write the float32 ONNX file `source` with eight-bit weights and activations.

    Args:
        calibration: batches of images in [0, 1]; the first `settings.num_images` are used.
        grids: input grids of the products with weights, in the order of calls, for a quantized
            network.

    Raises:
        ValueError: if there is no image, an image of another shape, or nothing to quantize; or if
            grids have no eight-bit form.
    """
    model = onnx.load(source)
    images = _collect(calibration, _image_shape(model), settings.num_images)
    kinds = {node.op_type for node in model.graph.node}
    products_only = bool(kinds & _FLOAT_ONLY) or bool(grids)
    options: dict[str, Any] = {
        "MatMulConstBOnly": products_only,
        "OpTypesToExcludeOutputQuantization": list(_PRODUCTS) if products_only else ["Gemm"],
        "CalibPercentile": settings.percentile,
    }
    if settings.method == "percentile":
        options["CalibStridedMinMax"] = 1  # otherwise all activations are in memory at once
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        prepared, rounded = Path(scratch, "prepared.onnx"), Path(scratch, "rounded.onnx")
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        if grids:
            products = _matched(onnx.load(prepared).graph, grids)
            options["TensorQuantOverrides"] = _overrides(products)
        quantize_static(
            prepared,
            rounded,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_PRODUCTS, *(() if products_only else _IN_BETWEEN)],
            per_channel=True,
            reduce_range=settings.reduce_range and not grids,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=_METHODS[settings.method],
            extra_options=options,
        )
        made = onnx.load(rounded)
    if count_quantize_nodes(made) == 0:
        raise ValueError(
            f"nothing in {source.name} can be quantized: no convolution and no product with "
            "weights; export onnx"
        )
    if products_only:
        _leave_others_float(made.graph)
    if grids:
        _store_on_grids(made.graph, {node.name: grid.weight_bits for node, grid in products})
    _shrink(made.graph)
    write_lean(made, description_of(model), path)


def _matched(graph: onnx.GraphProto, grids: Sequence[Grid]) -> list[tuple[onnx.NodeProto, Grid]]:
    """Return each product of the graph with its grid."""
    odd = sorted({g.activation_bits for g in grids if g.activation_bits != 8})
    if any(grid.dynamic for grid in grids):
        raise ValueError(
            "the network takes the range of each image, the runtime's kernels that of a batch; "
            "quantize it with static ranges, or export onnx"
        )
    wide = sorted({g.weight_bits for g in grids if g.weight_bits > 8})
    if odd or wide:
        raise ValueError(
            f"the network rounds to {(odd or wide)[0]} bits, which the runtime's eight-bit kernels "
            "cannot follow; quantize it with 8 bits, or export onnx"
        )
    constants = {tensor.name for tensor in graph.initializer}
    # Products of two activations, in attention, have no weights.
    products = [
        node
        for node in graph.node
        if node.op_type in _PRODUCTS and not constants.isdisjoint(node.input[:2])
    ]
    if len(products) != len(grids):
        raise ValueError(
            f"the network rounds at {len(grids)} layers, its graph has {len(products)} products; "
            "export onnx"
        )
    return list(zip(products, grids, strict=True))


def _overrides(
    products: Sequence[tuple[onnx.NodeProto, Grid]],
) -> dict[str, list[dict[str, Any]]]:
    """Return scale and zero_point of each product's input, in the quantizer's form."""
    return {
        node.input[0]: [
            {
                "quant_type": QuantType.QUInt8,
                "scale": np.array(grid.scale, np.float32),
                "zero_point": np.array(grid.zero_point, np.uint8),
            }
        ]
        for node, grid in products
    }


def _leave_others_float(graph: onnx.GraphProto) -> None:
    """Let operations other than products with weights read activations before rounding.

    The quantizer passes rounded inputs of a product to all readers, also to a shortcut.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    before: dict[str, str] = {}
    for node in graph.node:
        rounding = made_by.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if rounding is not None:  # else a constant
            before[node.output[0]] = rounding.input[0]
    for node in graph.node:
        weight = made_by.get(node.input[1]) if node.op_type in _PRODUCTS else None
        if weight is None or weight.op_type != "DequantizeLinear" or weight.output[0] in before:
            node.input[:] = [
                name if node.op_type == "DequantizeLinear" else before.get(name, name)
                for name in node.input
            ]


def _store_on_grids(graph: onnx.GraphProto, bits_of: Mapping[str, int]) -> None:
    """Store the weights of each product as the integers of the network's own grid.

    Args:
        bits_of: bits of the weights, by the product's name.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    stored: dict[tuple[str, ...], tuple[int, bool]] = {}
    for node in graph.node:
        for name in node.input[1:] if node.name in bits_of else ():
            stored[tuple(made_by[name].input)] = (bits_of[node.name], name == node.input[1])
    for names, (bits, is_weight) in stored.items():
        integers, scale, zero_point = (onnx.numpy_helper.to_array(constants[n]) for n in names)
        # The quantizer spread weights over -127 to 127, by the same largest one of a channel. The
        # kernel takes for granted that a bias has the product of both scales.
        coarser = _INT8_HIGHEST / (2 ** (bits - 1) - 1)
        kind, middle = integers.dtype, 0
        if is_weight and bits == 8:
            kind, middle = np.dtype(np.uint8), 128
        made = (
            (np.round(integers / coarser) + middle).astype(kind),
            (scale * coarser).astype(np.float32),
            np.full_like(zero_point, middle, dtype=kind),
        )
        for name, values in zip(names, made, strict=True):
            constants[name].CopyFrom(onnx.numpy_helper.from_array(values, name))


class _Reader(CalibrationDataReader):
    """Reads batches; `set_range` limits their number until its next call."""

    def __init__(self, images: Float[np.ndarray, "images channels height width"]) -> None:
        self._batches = np.split(images, range(_BATCH, len(images), _BATCH))
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._range = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Any]:
        batch = next(self._range, None)
        return {} if batch is None else {INPUT: batch}


def _shrink(graph: onnx.GraphProto) -> None:
    """Merge equal constants, and keep only the names of images, logits and weight tensors.

    The many small constants and repeated names of a depthwise network would be 1/10 of the file.
    """
    _drop_zero_points_of_biases(graph)
    used = {name for node in graph.node for name in node.input}
    first: dict[tuple[Any, ...], onnx.TensorProto] = {}
    names = {"": ""} | {value.name: value.name for value in (*graph.input, *graph.output)}
    for tensor in graph.initializer:
        if tensor.name in used:
            content = onnx.numpy_helper.to_array(tensor).tobytes()
            kept = first.setdefault((tensor.data_type, *tensor.dims, content), tensor)
            is_weight = len(tensor.dims) > 1
            names[tensor.name] = kept.name if is_weight else names.get(kept.name, f"c{len(first)}")
    constants = list(first.values())
    for tensor in constants:
        tensor.name = names[tensor.name]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    for node in graph.node:
        node.name = ""
        node.input[:] = [names[name] for name in node.input]
        for name in node.output:
            names.setdefault(name, f"t{len(names)}")
        node.output[:] = [names[name] for name in node.output]


def _drop_zero_points_of_biases(graph: onnx.GraphProto) -> None:
    """Omit values that are 0 by ONNX's definition: the zero_point of every int32 constant."""
    biases = {
        tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT32
    }
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in biases:
            del node.input[2:]


def _image_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])


def _collect(
    batches: Iterable[Tensor], shape: tuple[int, ...], num_images: int
) -> Float[np.ndarray, "images channels height width"]:
    """Return the first `num_images` images of `batches`, reading only as many as needed."""
    parts: list[Tensor] = []
    for batch in batches:
        if tuple(batch.shape[1:]) != shape:
            raise ValueError(
                f"calibration images must have the network's shape {shape}, "
                f"got {tuple(batch.shape[1:])}"
            )
        parts.append(batch.detach().float().cpu())
        if sum(map(len, parts)) >= num_images:
            break
    if sum(map(len, parts)) == 0:
        raise ValueError("int8-onnx needs calibration images, got none")
    images: Float[np.ndarray, "images channels height width"]
    images = torch.cat(parts)[:num_images].numpy()
    return images
