"""Changes to an architecture, as records that can be repeated without a pickle.

student.json holds the records in order. `rebuild` applies them to a new architecture, so that the
saved weights fit.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from doublure.core.checks import one_of
from doublure.nets import ensemble, expanded, pruned, quantized

Plan = tuple[dict[str, Any], ...]

# Each changes the body in place and returns None, or returns another one.
_REBUILD: dict[str, Callable[[nn.Module, Mapping[str, Any]], nn.Module | None]] = {
    pruned.KIND: pruned.rebuild_,
    quantized.KIND: quantized.rebuild_,
    expanded.KIND: expanded.rebuild_,
    ensemble.KIND: ensemble.rebuild,
}


def rebuild(body: nn.Module, plan: Plan) -> nn.Module:
    """Return `body` after all changes in a plan.

    Raises:
        ValueError: a record has an unknown kind or does not fit the architecture.
    """
    for record in plan:
        kind = one_of("kind of change", str(record.get("kind")), _REBUILD)
        try:
            body = _REBUILD[kind](body, record) or body
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the record '{kind}' does not fit {type(body).__name__} ({error}); "
                "doublure did not write it for this architecture"
            ) from error
    return body
