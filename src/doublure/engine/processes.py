"""Several processes that make one student: a launcher starts them, here they find each other.

`torchrun` and `accelerate launch` tell each process its rank and their number. We start none.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes of one run, as one of them sees it; alone, where nobody launched more."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def broadcast(self, value: _Value) -> _Value:
        """Return the first process's value; nobody goes on before it is there."""
        box = [value]
        if self.world > 1:
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any] | None:
        """Return every process's value by rank, in the first one; None in the others."""
        if self.world == 1:
            return [value]
        boxes = [None] * self.world if self.first else None
        torch.distributed.gather_object(value, boxes, dst=0)
        return boxes


@contextmanager
def process_group(*, cpu: bool) -> Iterator[ProcessGroup]:
    """Join the processes that were launched together, and part from them at the end.

    Args:
        cpu: work on the CPU, even where there is a GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup()
        return
    # Importing it takes a second, which a run of one process need not pay.
    from accelerate.state import PartialState

    joined = torch.distributed.is_initialized()
    state: Any = PartialState(cpu=cpu)
    try:
        yield ProcessGroup(rank=state.process_index, world=state.num_processes)
    finally:
        if not joined:
            state.destroy_process_group()
            state._reset_state()
