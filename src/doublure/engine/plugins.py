"""What the engine is told of the packages above it, as one value that a verb hands over."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from doublure.engine.codec import Codec


@dataclass(frozen=True, kw_only=True)
class Plugins:
    """What is plugged into the engine.

    Args:
        codec: writes and reads recipes, with the kinds of parts that there are.
        papers: what a method is cited as, by its name.
    """

    codec: Codec
    papers: Mapping[str, str] = field(default_factory=dict)
