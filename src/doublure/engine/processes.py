"""Several processes that train one student, started by a launcher.

`torchrun` and `accelerate launch` set the rank and number of processes; none is started here.
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
    """The process group of a run; without a launcher, a single process."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def broadcast(self, value: _Value) -> _Value:
        """Return the first process's value; all processes wait for it."""
        box = [value]
        if self.world > 1:
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any] | None:
        """Return the values of all processes by rank, in the first one; None in the others."""
        if self.world == 1:
            return [value]
        boxes = [None] * self.world if self.first else None
        torch.distributed.gather_object(value, boxes, dst=0)
        return boxes


@contextmanager
def process_group(*, cpu: bool) -> Iterator[ProcessGroup]:
    """Context manager that joins the process group of the launcher.

    Args:
        cpu: use the CPU, even if there is a GPU.
    """
    if _asked_for() == 1:
        yield ProcessGroup()
        return
    # Slow to import, and not needed by a single process.
    from accelerate.state import PartialState

    joined = torch.distributed.is_initialized()
    state: Any = PartialState(cpu=cpu)
    try:
        yield ProcessGroup(rank=state.process_index, world=state.num_processes)
    finally:
        if not joined:
            state.destroy_process_group()
            state._reset_state()


def _asked_for() -> int:
    """Return the number of processes that the launcher has started."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(
            f"WORLD_SIZE in the environment is '{text}', not a number of processes; unset it, or "
            "let torchrun or accelerate launch set it"
        )
    return int(text)
