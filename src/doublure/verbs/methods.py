"""`methods`: what there is, the paper behind it, and the verb that reaches it."""

from typing import Any

from doublure.catalogue import METHODS


def methods() -> list[dict[str, Any]]:
    """Return every method: name, paper, arxiv, file, needs, verb."""
    return [entry.to_json() for entry in METHODS]
