"""A network as a torch program: traced once with a dynamic batch size, saved as .pt2.

The trace includes the normalisation, so the program takes images in [0, 1]. Its debugging notes are
removed: they contain folder names of the exporting machine.
"""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._pytree import tree_map

from doublure.engine.description import describe
from doublure.engine.run_folder import write_whole
from doublure.nets.memory_format import to_channels_first_
from doublure.nets.network import Network, freeze

DESCRIPTION = "description.json"
# The tracer would treat a batch of 0 or 1 as a constant.
_EXAMPLES = 2
# torch 2.6 needs an upper limit of the batch size.
_LONGEST = 2**31 - 1
_UNTRACEABLE = (TorchDynamoException, GuardOnDataDependentSymNode)


def trace_program(network: Network[Any]) -> ExportedProgram:
    """Return the network, in eval mode and on the CPU, as a program with a dynamic batch size.

    Raises:
        ValueError: if torch cannot trace the network, or only for one batch size.
    """
    frozen = freeze(network).to("cpu", torch.float32)
    to_channels_first_(frozen)
    example = (network.contract.blank(_EXAMPLES, torch.device("cpu")),)
    batch = {0: Dim("batch", max=_LONGEST)}
    shapes = tree_map(lambda _: batch, example)
    try:
        program = torch.export.export(frozen, example, dynamic_shapes=shapes, strict=False)
    except _UNTRACEABLE:
        # Non-strict tracing makes the batch size constant at len(x); strict tracing does not, but
        # supports less Python, so it is the second choice.
        program = _read_bytecode(frozen, example, shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_program(program: ExportedProgram, network: Network[Any], path: Path) -> None:
    """Write `program` as a .pt2 for `torch.export.load`; it includes the network's contract."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={DESCRIPTION: json.dumps(describe(network))})
    write_whole(path, buffer.getvalue())


def _read_bytecode(network: torch.nn.Module, example: tuple[Any], shapes: Any) -> ExportedProgram:
    try:
        with warnings.catch_warnings():
            # Side effects of the forward pass do not change its outputs, which are compared later.
            warnings.filterwarnings("ignore", message=".*certain side effects.*")
            return torch.export.export(network, example, dynamic_shapes=shapes, strict=True)
    except _UNTRACEABLE as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"torch cannot trace the network with a free batch size ({reason}); in its forward, "
            "keep x.shape[0] as it is and let no value of a tensor decide what is computed"
        ) from error
