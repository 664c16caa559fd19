"""What the engine is told of the packages above it, as one value that a verb hands over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from doublure.engine.codec import Codec
from doublure.engine.task import Task


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """What is plugged into the engine.

    Args:
        tasks: every task there is; the first one is meant where nothing tells which.
        codec: writes and reads recipes, with the kinds of parts that there are.
        papers: what a method is cited as, by its name.
    """

    tasks: tuple[Task, ...]
    codec: Codec
    papers: Mapping[str, str] = field(default_factory=dict)

    def task_of(self, contract: Any) -> Task:
        """Return the task of networks with this contract."""
        return task_of(self.tasks, contract)

    def task_of_data(self, data: str) -> Task:
        """Return the task whose kind of data a text names, else the first."""
        return next((task for task in self.tasks if task.owns_data(data)), self.tasks[0])


def task_of(tasks: tuple[Task, ...], contract: Any) -> Task:
    """Return the task of networks with this contract.

    Raises:
        ValueError: no task knows it.
    """
    for task in tasks:
        if task.owns(contract):
            return task
    known = ", ".join(task.name for task in tasks)
    raise ValueError(
        f"no task has networks with a {type(contract).__name__}; known: {known}. Add yours to "
        "doublure.tasks.TASKS"
    )
