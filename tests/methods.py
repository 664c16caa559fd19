"""What the test of a method tells the tests of all methods: EXAMPLES and DEFAULTS, both optional.

EXAMPLES is a tuple of settings that suit tiny networks, or of functions that make them in an empty
folder; a class without one is tried at its defaults. DEFAULTS are the values, by field, that make
the method what its paper says.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doublure.catalogue import Entry
from doublure.core.protocols import Source
from doublure.sources.noise import Noise


def named_in_test(entry: Entry, name: str, otherwise: Any) -> Any:
    """Return what the test of a method holds under a name."""
    folders, _, stem = entry.place.rpartition("/")
    module = importlib.import_module(f"tests.{folders.replace('/', '.')}.test_{stem}")
    return getattr(module, name, otherwise)


def defaults(entry: Entry) -> Mapping[str, Any]:
    """Return the golden defaults of a method."""
    return named_in_test(entry, "DEFAULTS", {})


def example(entry: Entry, folder: Path, inner: Source | None = None) -> Any:
    """Return settings of a method to try; a wrapper is put around `inner`."""
    assert entry.settings is not None
    for made in named_in_test(entry, "EXAMPLES", ()):
        settings = made(folder) if inspect.isfunction(made) else made
        if type(settings) is entry.settings:
            return settings if inner is None else _around(settings, inner)
    fields = {field.name for field in dataclasses.fields(entry.settings)}
    return entry.settings(**({"source": inner or Noise()} if "source" in fields else {}))


def _around(wrapper: Any, inner: Source) -> Any:
    if several := getattr(wrapper, "sources", ()):
        return dataclasses.replace(wrapper, sources=(inner, *several[1:]))
    return dataclasses.replace(wrapper, source=inner)
