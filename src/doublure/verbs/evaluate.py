"""`evaluate`: how well does a network do on data with labels?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from doublure import tasks
from doublure.catalogue import plugins
from doublure.engine.pipeline import device_named
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
    """Return how `model` does on `data`, always in float32; the model is left as it was.

    Args:
        model: a REF, a network, or any module where `data` is a dataset already sized for it;
            weights, mean, std, size and classes describe a REF.
        data: DATA, of which the test part is taken where it is divided, or an opened dataset;
            parallel text where the network translates.
        skip_bad: leave unreadable image files out instead of raising.
        allow_code: files whose code may run where a run's folder asks for it.
        say: is told lines worth a person's eye.
    """
    if isinstance(model, nn.Module):
        network = model
    else:
        reference = network_named(
            model, weights=weights, mean=mean, std=std, size=size, classes=classes
        )
        loaded = resolve(reference, allow_code=permitted(model, allow_code=allow_code))
        network = loaded.network
        for note in loaded.notes:
            say(note)
    where = None if device is None else device_named(device)
    task = plugins().task_of(network.contract) if isinstance(network, Network) else tasks.TASKS[0]
    if isinstance(data, str | Path):
        contract = as_network(network, None).contract
        opened = task.open_evaluation_data(str(data), contract, skip_bad=skip_bad)
        for note in opened.notes:
            say(note)
        data = opened
    return task.evaluate(network, data, batch_size=batch_size, device=where)
