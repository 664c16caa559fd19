"""Which of a checkpoint's contents are weights: training scripts wrap and surround them freely.

A set of weights is a dictionary that holds tensors under names. It may lie inside of others, or be
an object: of a whole network that was pickled, or of a TorchScript program, only the tensors are
taken, under the names that its `state_dict()` would give them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from doublure.data.pickle_contents import Placeholder
from doublure.data.torch_archive import StoredTensor

AnyTensor = Tensor | StoredTensor

# Names under which training scripts keep the weights, and their exponential moving average.
_PLAIN = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params"),
    *("module", "model_state", "net_state_dict", "teacher", "student"),
)
_MOVING_AVERAGE = (
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "model_ema_state_dict"),
    *("params_ema", "net_ema", "shadow"),
)
# No real checkpoint wraps its weights more often, or holds more entries.
_DEEPEST, _MOST_ENTRIES = 4, 1_000_000
# An optimizer's state has tensors too.
_OPTIMIZER = "param_groups"
_PROGRAM = "__torch__."


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """Tensors by name, from one place of a checkpoint.

    Args:
        key: the place; names joined by points, "" for the whole file.
        left: what lies between them and is no tensor, by name.
    """

    key: str
    tensors: dict[str, AnyTensor]
    left: dict[str, Any]

    @property
    def average(self) -> bool:
        """Whether its name says that it is a moving average."""
        return any(part in _MOVING_AVERAGE for part in self.key.split("."))

    @property
    def known(self) -> bool:
        """Whether its name is one that scripts give to weights, or it needs none."""
        first = self.key.partition(".")[0]
        return not self.average and (first in _PLAIN or not first)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What stands before its names, where that differs."""
        first = tuple(dict.fromkeys(name.partition(".")[0] for name in self.tensors))
        return first if len(first) > 1 else ()

    def under(self, prefix: str) -> "WeightSet | None":
        """Return the part whose names begin with `prefix` and a point, without them."""
        start = f"{prefix}."
        tensors = {n[len(start) :]: t for n, t in self.tensors.items() if n.startswith(start)}
        key = f"{self.key}.{prefix}" if self.key else prefix
        return WeightSet(key=key, tensors=tensors, left={}) if tensors else None

    @property
    def has_matrices(self) -> bool:
        """Whether a layer could be made of it; running means of losses are tensors too."""
        return any(len(tensor.shape) > 1 for tensor in self.tensors.values())


def find_sets(content: Any) -> list[WeightSet]:
    """Return the sets of weights in what a file holds, outermost first; optimizers are none."""
    found = list(_sets(content, "", 0, [_MOST_ENTRIES]))
    return [each for each in found if each.has_matrices] or found


def _sets(value: Any, key: str, depth: int, budget: list[int]) -> Iterator[WeightSet]:
    entries = _entries(value, budget)
    if entries is None or _OPTIMIZER in entries:
        return
    budget[0] -= len(entries)
    if budget[0] < 0:
        raise ValueError(f"more than {_MOST_ENTRIES} entries")
    tensors = {
        name: item
        for name, item in entries.items()
        if isinstance(name, str) and isinstance(item, AnyTensor)
    }
    inner: list[WeightSet] = []
    if depth < _DEEPEST:
        for name, item in entries.items():
            inner += _sets(item, f"{key}.{name}" if key else str(name), depth + 1, budget)
    # A mean or a best accuracy beside the weights makes no second set of the whole.
    if tensors and len(tensors) > max((len(each.tensors) for each in inner), default=0):
        left = {str(name)[:80]: item for name, item in entries.items() if name not in tensors}
        yield WeightSet(key=key, tensors=tensors, left=left)
    yield from inner


def _entries(value: Any, budget: list[int]) -> Mapping[Any, Any] | None:
    """Return what lies in a dictionary or object by name, None for anything else."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, Placeholder):
        return None
    inside = _attributes(value)
    if value.name.startswith(_PROGRAM) or "_parameters" in inside:
        return dict(_network_tensors(value, "", budget))
    return {**inside, **value.items}


def _attributes(value: Placeholder) -> dict[Any, Any]:
    state = value.state
    if isinstance(state, tuple) and state:  # with __slots__
        state = state[0]
    return state if isinstance(state, dict) else {}


def _network_tensors(
    module: Placeholder, prefix: str, budget: list[int]
) -> Iterator[tuple[str, AnyTensor]]:
    """Yield parameters, buffers and those of the parts, as `state_dict()` names them."""
    inside = _attributes(module)
    if module.name.startswith(_PROGRAM):
        tensors, parts = inside, inside
    else:
        tensors = {**_mapping(inside, "_parameters"), **_mapping(inside, "_buffers")}
        transient = inside.get("_non_persistent_buffers_set")
        for name in transient if isinstance(transient, list) else ():
            tensors.pop(name, None)
        parts = _mapping(inside, "_modules")
    budget[0] -= 1 + len(tensors) + len(parts)
    if budget[0] < 0:
        raise ValueError(f"more than {_MOST_ENTRIES} entries")
    for name, tensor in tensors.items():
        if isinstance(tensor, AnyTensor):
            yield f"{prefix}{name}", tensor
    for name, part in parts.items():
        if isinstance(part, Placeholder):
            yield from _network_tensors(part, f"{prefix}{name}.", budget)


def _mapping(inside: Mapping[Any, Any], name: str) -> dict[Any, Any]:
    value = inside.get(name)
    return dict(value) if isinstance(value, dict) else {}


def objects_in(content: Any, *, most: int = 100_000) -> list[str]:
    """Return the classes of what was not rebuilt, in order, each once."""
    found: dict[str, None] = {}
    waiting, seen = [content], set[int]()
    while waiting and len(seen) < most:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Placeholder):
            found.setdefault(value.name)
        elif isinstance(value, Mapping):
            waiting.extend(reversed(list(value.values())))
        elif isinstance(value, (list, tuple)):
            waiting.extend(reversed(value))
    return list(found)
