"""Recipes as TOML files, with the kinds of parts in the catalogue."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from doublure.catalogue import CODEC
from doublure.core.protocols import Source
from doublure.engine.codec import Run
from doublure.engine.recipe import Recipe


def read(path: Path, *, allow_code: bool | Collection[str | Path] = ()) -> Recipe:
    """Return the recipe in a file.

    Args:
        allow_code: files and modules from which it may load user classes.
    """
    return CODEC.permitting(allow_code=allow_code).read(path)


def read_as(of: type[Run], path: Path) -> Run:
    """Return the settings of class `of` in a file."""
    return CODEC.read_as(of, path)


def to_toml(recipe: Any) -> str:
    """Return the recipe as TOML text that `from_toml` reads back to an equal recipe."""
    return CODEC.to_toml(recipe)


def from_toml(text: str) -> Recipe:
    """Return the recipe of a TOML text.

    Raises:
        RecipeError: with the key that is unknown, missing or of the wrong type.
    """
    return CODEC.from_toml(text)


def from_toml_as(of: type[Run], text: str) -> Run:
    """Return the settings of class `of` from a TOML text."""
    return CODEC.from_toml_as(of, text)


def to_table(part: Any) -> Any:
    """Return a settings object as plain tables and lists, defaults included."""
    return CODEC.to_table(part)


def from_table(table: Mapping[str, Any]) -> Recipe:
    """Return the recipe from nested tables, as from `to_table`."""
    return CODEC.from_table(table)


def replace_keys(recipe: Run, assignments: Mapping[str, str]) -> Run:
    """Return the recipe with fields replaced by `KEY=VALUE` texts.

    A key is a full path ("stages.0.fit.steps"), a kind and a field ("balanced.pool_size",
    "fit.steps", "fit-nets.layers.find"), or a field that only one part has ("pool_size"). A value
    is TOML, otherwise text.
    """
    return CODEC.replace_keys(recipe, assignments)


def replace_fields(source: Source, assignments: Mapping[str, str]) -> Source:
    """Return a source with fields replaced by `KEY=VALUE` texts, as `replace_keys` does."""
    return CODEC.replace_fields(source, assignments)


def differing_keys(one: Run, other: Run, *, but: tuple[str, ...] = ()) -> list[str]:
    """Return the full paths at which two recipes differ, except those that end in one of `but`."""
    return CODEC.differing_keys(one, other, but=but)
