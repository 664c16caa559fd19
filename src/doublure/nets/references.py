"""References to networks: the REF, and further statements about the network.

`builtin/NAME`, `timm/NAME`, `torchvision/NAME`, `hf:ORG/NAME`, `file:NET.py:FUNCTION`, a run
folder or its student.json, an exported program .pt2.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

Kind = Literal["builtin", "timm", "torchvision", "hf", "file", "python", "student", "program"]

_PREFIXES: dict[str, Kind] = {
    "builtin/": "builtin",
    "timm/": "timm",
    "torchvision/": "torchvision",
    "hf:": "hf",
    "file:": "file",
    "python:": "python",
}
# References whose weights are downloaded.
HUBS: tuple[Kind, ...] = ("timm", "torchvision", "hf")
_WEIGHTS_ONLY = frozenset({".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt", ".tar"})
_FORMS = (
    "builtin/resnet20, timm/NAME, torchvision/NAME, hf:ORG/NAME, file:net.py:make_net, "
    "a run folder, a student.json or a .pt2"
)


@dataclass(frozen=True, kw_only=True)
class NetworkRef:
    """A network by name; the fields override the defaults of that name.

    Args:
        ref: the REF.
        weights: a file of weights, or None for those of the REF itself.
        weights_key: key of the weights if the file has several sets, such as a moving average, or a
            teacher beside its student.
        mean: mean of each channel, for images in [0, 1].
        size: height and width in pixels.
        names: one name per class.
        vocabulary: parallel text from which a new translator's vocabularies are learned.
        pieces: number of pieces in each of the two.
    """

    ref: str
    weights: str | None = None
    weights_key: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    classes: int | None = None
    names: tuple[str, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    vocabulary: str | None = None
    pieces: int | None = None

    def __post_init__(self) -> None:
        if self.weights_key is not None and self.weights is None:
            raise ValueError(
                f"weights_key '{self.weights_key}' chooses within a file of weights; name the "
                "file, too: --weights FILE"
            )
        if self.classes is not None and self.names is not None and len(self.names) != self.classes:
            raise ValueError(
                f"names must have one entry per class ({self.classes}), got {len(self.names)}"
            )


@dataclass(frozen=True)
class Reference:
    """A parsed REF: its kind, and the text after the prefix."""

    kind: Kind
    target: str
    text: str


def parse(ref: str) -> Reference:
    """Return the parsed REF; no file is opened.

    Raises:
        ValueError: it is empty, incomplete, or a file of weights, which has no architecture.
    """
    for prefix, kind in _PREFIXES.items():
        if ref.startswith(prefix):
            return Reference(kind, _complete(ref, prefix, kind), ref)
    suffix = PurePath(ref).suffix
    if not ref:
        raise ValueError(f"an empty reference names no network; known forms: {_FORMS}")
    if suffix in _WEIGHTS_ONLY:
        raise ValueError(
            f"{ref} is a file of weights without an architecture; name the network too: "
            f"builtin/resnet20 (or any other REF) with --weights {ref}"
        )
    return Reference("program" if suffix == ".pt2" else "student", ref, ref)


def no_network(ref: str) -> str:
    """Return the message for a REF that is neither of a known form nor a path."""
    if ".py:" in ref:
        return f"'{ref}' is not a known form; a function of a file is written file:{ref}"
    return f"'{ref}' is neither a network nor a path; known forms: {_FORMS}"


def _complete(ref: str, prefix: str, kind: Kind) -> str:
    target = ref.removeprefix(prefix)
    parts = {"hf": ("/", "hf:ORG/NAME"), "file": (":", "file:net.py:make_net")}
    separator, form = parts.get(kind, ("", f"{prefix}NAME"))
    if not target or not all(target.rpartition(separator)[::2] if separator else (target,)):
        raise ValueError(f"'{ref}' is incomplete; the form is {form}")
    return target
