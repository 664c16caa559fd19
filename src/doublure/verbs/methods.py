"""`methods`: all methods, their papers and verbs."""

from typing import Any

from doublure.catalogue import METHODS


def methods() -> list[dict[str, Any]]:
    """Return every method: name, paper, arxiv, file, needs, verb."""
    return [entry.to_json() for entry in METHODS]
