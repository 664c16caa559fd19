"""`evaluate`: the scores of a network on data with labels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from doublure import tasks
from doublure.catalogue import plugins
from doublure.engine.run_options import find_device
from doublure.engine.task import Evaluation
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import resolve
from doublure.verbs.naming import as_network, network_named, permitted


def evaluate(
    model: str | NetworkRef | nn.Module,
    data: Any,
    *,
    weights: str | None = None,
    weights_key: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
    batch_size: int = 256,
    device: str | None = None,
    skip_bad: bool = False,
    allow_code: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Return the evaluation of `model` on `data`, always in float32; the model is unchanged.

    Args:
        model: a REF, a network, or any module if `data` is a dataset of its input size; weights,
            mean, std, size and classes describe a REF.
        data: DATA, with its test part if it has parts, or an open dataset; parallel text if the
            network translates.
        skip_bad: skip unreadable image files instead of raising.
        allow_code: files whose code may run if a run's folder needs it.
        say: callback for log messages.
    """
    if isinstance(model, nn.Module):
        network = model
    else:
        reference = network_named(
            model,
            weights=weights,
            weights_key=weights_key,
            mean=mean,
            std=std,
            size=size,
            classes=classes,
        )
        loaded = resolve(reference, allow_code=permitted(model, allow_code=allow_code))
        network = loaded.network
        for note in loaded.notes:
            say(note)
    where = None if device is None else find_device(device)
    task = plugins().task_of(network.contract) if isinstance(network, Network) else tasks.TASKS[0]
    if isinstance(data, str | Path):
        contract = as_network(network, None).contract
        opened = task.open_evaluation_data(str(data), contract, skip_bad=skip_bad)
        for note in opened.notes:
            say(note)
        data = opened
    return task.evaluate(network, data, batch_size=batch_size, device=where)
