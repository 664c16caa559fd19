"""Names of weights in a file, matched to those of an architecture.

Wrappers put names of their own before or between: DataParallel `module`, torch.compile `_orig_mod`,
FSDP, activation checkpointing, Lightning and whoever keeps a network as `self.model`. A name in
the file is an architecture's name with such parts inside and one prefix before it; the prefix that
meets the most names and shapes is taken.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]

# Parts that wrappers put anywhere in a name; an architecture that uses one itself keeps it.
_WRAPPERS = frozenset(
    {
        *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
        *("_forward_module", "_fpw_module"),
    }
)
# What tools count or note beside a layer's weights: torch.optim.swa_utils, thop, torch itself.
_BOOKKEEPING = frozenset(
    {"n_averaged", "total_ops", "total_params", "_extra_state", "num_batches_tracked"}
)
# Counts batches for a BatchNorm without momentum; checkpoints older than it do without.
OPTIONAL = "num_batches_tracked"
# Enough names to find every prefix by, even where a file lacks some.
_NUM_ANCHORS = 8


@dataclass(frozen=True, kw_only=True)
class NameMatch:
    """Which name in the file stands for which of the architecture.

    Args:
        names: by the architecture's name, the file's.
        left: names in the file that stand for nothing.
        foreign: those of `left` that belong to no part of the architecture.
        prefix: what stands before the names in the file.
        rivals: other prefixes under which just as much fits.
        average: the prefix of a moving average that fits as well, "" if there is none.
    """

    names: Mapping[str, str]
    left: tuple[str, ...]
    foreign: tuple[str, ...]
    prefix: str = ""
    rivals: tuple[str, ...] = ()
    average: str = ""


def match_names(given: Mapping[str, Shape], expected: Mapping[str, Shape]) -> NameMatch:
    """Return the best match between the names and shapes of a file and of an architecture."""
    plain = _without_wrappers(given, expected)
    head = _common_head(expected)
    found = []
    for cut in ("", head) if head else ("",):
        wanted = {name.removeprefix(cut): name for name in expected}
        for prefix in _prefixes(plain, wanted):
            names = {
                full: plain[prefix + short]
                for short, full in wanted.items()
                if prefix + short in plain
            }
            alike = sum(given[name] == expected[full] for full, name in names.items())
            found.append(((len(names), alike), cut, prefix, names))
    best = max(score for score, *_ in found)
    equal = [(prefix, names) for score, _, prefix, names in found if score == best]
    # Under no prefix first, then what is no moving average.
    equal.sort(key=lambda each: (each[0] != "", _is_average(each[0])))
    prefix, names = equal[0]
    used = set(names.values())
    short = {name: key for key, name in plain.items()}
    left = tuple(name for name in given if name not in used)
    known = {_stem(name.removeprefix(head)) for name in expected}
    own = {name for name in left if _belongs(short[name], prefix, known)}
    others = [other for other, meant in equal[1:] if best[0] and meant != names]
    averages = [other for other in others if _is_average(other)]
    return NameMatch(
        names=names,
        left=left,
        foreign=tuple(name for name in left if name not in own),
        prefix=prefix,
        rivals=tuple(other for other in others if _is_average(other) == _is_average(prefix)),
        average=averages[0] if averages and not _is_average(prefix) else "",
    )


def is_bookkeeping(name: str) -> bool:
    """Whether tools write something of this name beside a layer's weights."""
    return name.rpartition(".")[2] in _BOOKKEEPING


def shapes_of(state: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shapes of tensors by their names."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _without_wrappers(given: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Return the names in the file by what is left of them without wrappers."""
    own = {part for name in expected for part in name.split(".")}
    plain: dict[str, str] = {}
    for name in given:
        kept = [part for part in name.split(".") if part not in _WRAPPERS - own]
        # Two networks in one file, of which one is wrapped, stay apart.
        short = ".".join(kept)
        plain[name if short in plain else short] = name
    return plain


def _common_head(expected: Mapping[str, Shape]) -> str:
    """Return the one part that the architecture puts before all of its names, "" if none."""
    head = next(iter(expected), "").partition(".")[0] + "."
    return head if all(name.startswith(head) for name in expected) else ""


def _prefixes(plain: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    anchors = [name for name in wanted if not name.endswith(OPTIONAL)][:_NUM_ANCHORS]
    found = dict.fromkeys([""])
    for anchor in anchors:
        for name in plain:
            if name == anchor or name.endswith("." + anchor):
                found[name.removesuffix(anchor)] = None
    return list(found)


def _is_average(prefix: str) -> bool:
    return "ema" in prefix.replace(".", "_").split("_")


def _belongs(name: str, prefix: str, known: set[str]) -> bool:
    """Whether a name that was not asked for is of the same network nevertheless.

    One more block of a stage, or a stage more than the architecture has, means another network.
    """
    if is_bookkeeping(name) or not name.startswith(prefix):
        return False
    return _stem(name.removeprefix(prefix)) in known


def _stem(name: str) -> str:
    """Return the first part of a name without its number: layer3.0.weight is of 'layer'."""
    return name.partition(".")[0].rstrip("0123456789")
