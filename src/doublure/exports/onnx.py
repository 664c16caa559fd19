"""A network as ONNX: input `images` in [0, 1], NCHW, any batch size; output `logits`.

Normalisation is inside and batch normalisation is folded into the convolutions. The file has the
data for a runtime and the network's contract; the exporter's debugging notes, which include folder
names of this machine, are removed.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import GraphOptimizationLevel, SessionOptions
from torch.export import ExportedProgram
from torch.onnx import OnnxExporterError

from doublure.engine.description import INPUT, describe
from doublure.engine.programs import trace_program
from doublure.engine.run_folder import write_whole
from doublure.nets.network import Network

# A protobuf message, and so an ONNX file without side files, ends at 2 GiB.
_LARGEST = 2**31 - 1
_BATCH = "batch"
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def export_onnx(network: Network, path: Path) -> None:
    """Write `network`, in eval mode, as one float32 ONNX file."""
    write_onnx(trace_program(network), describe(network), path)


def write_onnx(program: ExportedProgram, description: Mapping[str, str], path: Path) -> None:
    """Write a traced program as one ONNX file, with `description` in its metadata.

    Raises:
        ValueError: if an operation has no ONNX form, or the file would be too large.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if size > _LARGEST:
        raise ValueError(f"an ONNX file holds at most {_LARGEST} bytes, got {size}; export pt2")
    try:
        with _exporter_quiet():
            made = torch.onnx.export(
                program,
                input_names=[INPUT],
                output_names=json.loads(description["output"]).split(", "),
                dynamo=True,
                verbose=False,
            )
    except OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        here = f"torch {torch.__version__}, onnxscript {version('onnxscript')}"
        raise ValueError(
            f"the network has no ONNX form ({reason}); export pt2, or try other versions of {here}"
        ) from error
    assert made is not None
    model = made.model_proto
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = _BATCH
    write_lean(model, description, path)


def write_lean(model: ModelProto, description: Mapping[str, str], path: Path) -> None:
    """Check `model`, remove what no runtime reads, and write it with its description."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    graph.name = "doublure"
    model.producer_name, model.producer_version = "doublure", ""
    onnx.helper.set_model_props(model, dict(description))
    onnx.checker.check_model(model, full_check=True)
    write_whole(path, model.SerializeToString(deterministic=True))


def description_of(model: ModelProto) -> dict[str, str]:
    """Return a model's metadata: names and JSON values, as from `describe`."""
    return {prop.key: prop.value for prop in model.metadata_props}


def count_weight_bytes(model: ModelProto) -> int:
    """Return the size of the graph's constants in bytes."""
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)


def count_quantize_nodes(model: ModelProto) -> int:
    """Return the number of nodes that quantize or dequantize."""
    return sum(node.op_type in _QUANTIZERS for node in model.graph.node)


def open_session(path: Path, threads: int, *, fused: bool = True) -> InferenceSession:
    """Return a CPU session with `threads` threads and without log output.

    Args:
        fused: whether the runtime may fuse operations; otherwise each is computed as in the file.
    """
    options = SessionOptions()
    if not fused:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    # Spinning idle threads would slow down other timed forms.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def _exporter_quiet() -> Iterator[None]:
    """Silence two remarks of the exporter that no caller can act on."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = registration.level
    # It reports a missing torchvision, which is not used here.
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch copies its own deprecated LeafSpec.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        registration.setLevel(before)
