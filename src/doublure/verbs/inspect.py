"""`inspect`: the content of a checkpoint, and a check of its input contract."""

from collections.abc import Callable, Sequence

from torch import nn

from doublure.audits.input_contract import inspect_network
from doublure.core.findings import Finding
from doublure.nets.references import NetworkRef
from doublure.verbs.naming import open_network


def inspect(
    model: str | NetworkRef | nn.Module,
    *,
    weights: str | None = None,
    weights_key: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
    allow_code: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Finding:
    """Return parameters, layers and input contract of `model`, and a verdict on the contract.

    Args:
        allow_code: files whose code may run if a run's folder needs it.
    """
    network = open_network(
        model,
        verb="inspect",
        weights=weights,
        weights_key=weights_key,
        mean=mean,
        std=std,
        size=size,
        classes=classes,
        allow_code=allow_code,
        say=say,
    )
    return inspect_network(network)
