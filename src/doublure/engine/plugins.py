"""The plug-ins of the engine from packages above it, as one value that a verb passes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from doublure.engine.codec import Codec
from doublure.engine.task import Task


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """The plug-ins of the engine.

    Args:
        tasks: all tasks; the first one is the default.
        codec: writes and reads recipes, with all kinds of parts.
        papers: citations of methods, by name.
    """

    tasks: tuple[Task, ...]
    codec: Codec
    papers: Mapping[str, str] = field(default_factory=dict)

    def task_of(self, contract: Any) -> Task:
        """Return the task of networks with this contract."""
        return task_of(self.tasks, contract)

    def task_of_data(self, data: str) -> Task:
        """Return the task for the data that a text names, else the first."""
        return next((task for task in self.tasks if task.owns_data(data)), self.tasks[0])


def task_of(tasks: tuple[Task, ...], contract: Any) -> Task:
    """Return the task of networks with this contract.

    Raises:
        ValueError: no task has such networks.
    """
    for task in tasks:
        if task.owns(contract):
            return task
    known = ", ".join(task.name for task in tasks)
    raise ValueError(
        f"no task has networks with a {type(contract).__name__}; known: {known}. Add yours to "
        "doublure.tasks.TASKS"
    )
