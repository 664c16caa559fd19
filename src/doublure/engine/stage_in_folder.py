"""One stage of a run: its training, with checkpoints and a metrics log in the run's folder."""

import contextlib
import errno
import functools
from collections.abc import Callable
from typing import Any

from doublure.data.own_files import RunFolderError
from doublure.engine.fit import FitResult, MetricsLogger
from doublure.engine.pacing import Pacer
from doublure.engine.processes import ProcessGroup
from doublure.engine.run_folder import (
    MAKE_ROOM,
    FolderCheckpointer,
    MetricsFile,
    RunFolder,
    TensorBoard,
)
from doublure.engine.run_options import RunOptions


def train_in_folder(
    train: Callable[..., FitResult],
    stage: int,
    steps: int,
    folder: RunFolder,
    options: RunOptions,
    processes: ProcessGroup,
    taught_by: str,
    pacer: Pacer | None = None,
) -> FitResult:
    """Train one stage, with checkpoints and a metrics log in the run's folder.

    Args:
        train: called with a checkpointer and a metrics log.
        taught_by: digest of the stage's inputs; a checkpoint is restored only if it is equal.
        pacer: corrects the number of steps during training.
    """
    if pacer is not None:
        train = functools.partial(train, pacing=pacer)
    together = max(1, steps // 20) if processes.world > 1 else None
    checkpointer = FolderCheckpointer(
        folder,
        stage,
        seconds=options.checkpoint_seconds,
        steps=together,
        rank=processes.rank,
        world=processes.world,
        gather=processes.gather,
        taught_by=taught_by,
    )
    if not processes.first:
        return train(checkpointer=checkpointer)
    state = checkpointer.load()
    step = 0 if state is None else state["step"]
    if state is not None:
        options.say(f"going on from step {step} of {steps}")
    with contextlib.ExitStack() as stack:
        loggers: list[MetricsLogger] = [
            stack.enter_context(MetricsFile(folder, stage, after_step=step))
        ]
        if options.tensorboard:
            loggers.append(stack.enter_context(TensorBoard(folder, stage, after_step=step)))

        def logger(line: dict[str, Any]) -> None:
            for told in loggers:
                told(line)
            options.watch(steps if pacer is None else pacer.steps or steps, line)

        try:
            return train(checkpointer=checkpointer, logger=logger)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise RunFolderError(  # from a source that stores its images there
                f"cannot write into {folder.scratch}: {error.strerror}; {MAKE_ROOM}"
            ) from error
