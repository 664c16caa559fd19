"""A network as a torch program: traced once with a free batch size, saved as .pt2.

The trace holds the normalisation, so the program takes images in [0, 1]. Its debugging notes are
taken out: they spell out the folders of the machine that exported.
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
# The tracer would take a batch of 0 or 1 for a constant.
_EXAMPLES = 2
# torch 2.6 finds fault with a batch that could be as long as an integer can count.
_LONGEST = 2**31 - 1
_UNTRACEABLE = (TorchDynamoException, GuardOnDataDependentSymNode)


def trace_program(network: Network[Any]) -> ExportedProgram:
    """Return the network, in eval mode and on the CPU, as a program with a free batch size.

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
        # Running the network with symbols fixes the batch at len(x); reading its bytecode does
        # not, but understands less Python, so it comes second.
        program = _read_bytecode(frozen, example, shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_program(program: ExportedProgram, network: Network[Any], path: Path) -> None:
    """Write `program` as a .pt2 for `torch.export.load`; the network's contract goes with it."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={DESCRIPTION: json.dumps(describe(network))})
    write_whole(path, buffer.getvalue())


def _read_bytecode(network: torch.nn.Module, example: tuple[Any], shapes: Any) -> ExportedProgram:
    try:
        with warnings.catch_warnings():
            # A forward that keeps books changes no answer, and the answers are compared later.
            warnings.filterwarnings("ignore", message=".*certain side effects.*")
            return torch.export.export(network, example, dynamic_shapes=shapes, strict=True)
    except _UNTRACEABLE as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"torch cannot trace the network with a free batch size ({reason}); in its forward, "
            "keep x.shape[0] as it is and let no value of a tensor decide what is computed"
        ) from error
