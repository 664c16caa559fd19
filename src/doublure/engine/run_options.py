"""Options of a run that do not define its result, and the device it runs on."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from doublure.nets.network import Network


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that do not define the run's result.

    Args:
        budget: seconds of wall time, which become steps; None if the recipe has the steps.
        began: start of the budget, by `time.perf_counter`; None for the start of the run.
        networks: networks built in Python, in place of the recipe's references, by role.
        skip_bad: skip unreadable files of the evaluation data instead of raising.
        say: callback for log messages.
        watch: callback for the number of steps and each line of the metrics log.
        checkpoint_seconds: time between two checkpoints.
        tensorboard: also write the metrics log for TensorBoard.
        audit: whether the report has the audit of the transfer set, or the path of its
            optimisation.
        compared: number of images for the agreement; None for the task's own.
    """

    resume: bool = False
    overwrite: bool = False
    budget: float | None = None
    began: float | None = None
    allow_code: bool | Collection[str | Path] = False
    networks: Mapping[str, Network[Any]] = field(default_factory=dict)
    skip_bad: bool = False
    say: Callable[[str], None] = lambda _: None
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False
    audit: bool = True
    compared: int | None = None

    def __post_init__(self) -> None:
        # Python checks no types, and a budget is typed as text on the command line.
        if isinstance(self.budget, str):
            raise TypeError(f"budget is in seconds, 60.0 for \"1m\"; got '{self.budget}'")


def find_device(name: str) -> torch.device:
    """Return the named device; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device '{name}'; use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device '{name}' is requested, but torch finds no CUDA device; use cpu")
    return device
