"""Recipes as tables and TOML: the kind of each part and the value of each field.

A file holds every field of every part; a part whose field has a protocol as type (a source, an
objective, a rule) has a `kind`. Unknown keys are refused with the nearest name, values are
validated by pydantic against the dataclass fields.
"""

import contextlib
import dataclasses
import tomllib
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from doublure.core.checks import kind_name, one_of
from doublure.core.initialisation import Initialization
from doublure.core.protocols import Objective, Rule, Source, StatelessObjective, Transform
from doublure.engine.foreign_parts import class_name, load_class, names_class
from doublure.engine.optimizers import Optimizer
from doublure.engine.recipe import Recipe, RecipeError
from doublure.engine.schedules import Schedule

KIND = "kind"

# A recipe, or the settings of another verb in the same format.
Run = TypeVar("Run")

_FAMILIES: dict[Any, str] = {
    Source: "source",
    Objective: "objective",
    StatelessObjective: "objective",
    Rule: "rule",
    Transform: "transform",
    Initialization: "initialisation",
    Schedule: "schedule",
    Optimizer: "optimizer",
}


@dataclass(frozen=True)
class Codec:
    """Recipes as tables and TOML.

    Args:
        kinds: settings classes of sources, objectives, rules, transforms, initialisations,
            schedules and optimizers by kind.
        passed: user classes passed in this call, by name.
        allow_code: files and modules from which a recipe may load classes; see `foreign_parts`.
    """

    kinds: Mapping[str, Mapping[str, type]]
    passed: Mapping[str, type] = dataclasses.field(default_factory=dict)
    allow_code: bool | Collection[str | Path] = ()

    def permitting(
        self, part: Any = None, allow_code: bool | Collection[str | Path] = ()
    ) -> "Codec":
        """Return a codec that may also load the user classes in `part`, and the allowed ones.

        Args:
            part: a recipe or settings from this call.
        """
        passed = {} if part is None else dict(self._foreign(part))
        allowed = allow_code if isinstance(allow_code, bool) else (*allow_code,)
        return dataclasses.replace(self, passed={**self.passed, **passed}, allow_code=allowed)

    def settings_of(self, family: str, kind: str) -> type:
        """Return the settings class of a kind of source, objective or rule.

        Raises:
            ValueError: the kind is unknown, or would run code without permission.
        """
        if names_class(kind):
            return self.passed.get(kind) or load_class(kind, self.allow_code)
        return self.kinds[family][one_of(f"kind of {family}", kind, self.kinds[family])]

    def kind_of(self, settings: type) -> str | None:
        """Return the kind of a settings class; None if it needs none."""
        kind = kind_name(settings)
        return kind if any(known.get(kind) is settings for known in self.kinds.values()) else None

    def to_table(self, part: Any) -> Any:
        """Return a settings object as plain tables and lists, defaults included.

        Raises:
            RecipeError: it has a value or a class that a file cannot represent.
        """
        return self._table(part, of_family=is_part(part), path="")

    def _table(self, part: Any, *, of_family: bool, path: str) -> Any:
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            kind = self.kind_of(type(part))
            if kind is None and of_family:
                kind = _name(type(part), path)
            table = {KIND: kind} if kind else {}
            hints = _hints(type(part), path)
            for item in dataclasses.fields(part):
                value = getattr(part, item.name)
                where = _join(path, item.name)
                if value is not None:
                    holds = _is_family(hints[item.name]) or _holds_parts(hints[item.name])
                    table[item.name] = self._table(value, of_family=holds, path=where)
                elif item.default is not None:
                    raise RecipeError(
                        f"{type(part).__name__}.{item.name}: TOML cannot hold None here"
                    )
            return table
        if isinstance(part, tuple | list):
            return [
                self._table(item, of_family=of_family, path=_join(path, str(i)))
                for i, item in enumerate(part)
            ]
        if of_family and not isinstance(part, str | int | float | bool):
            raise RecipeError(
                f"{path}: a recipe holds settings as dataclasses, not a {type(part).__name__}; "
                "make it a frozen dataclass with its settings as fields"
            )
        if isinstance(part, Path):
            return str(part)
        if not isinstance(part, str | int | float | bool | Mapping):
            raise RecipeError(
                f"{path}: a recipe cannot hold a {type(part).__name__}; use numbers, texts, tuples "
                "of them, or dataclasses"
            )
        return part

    def _foreign(self, part: Any) -> Iterator[tuple[str, type]]:
        """Yield the user classes among the parts of a recipe, with their names."""
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            if is_part(part) and self.kind_of(type(part)) is None:
                with contextlib.suppress(ValueError):  # reported when the recipe is written
                    yield class_name(type(part)), type(part)
            for item in dataclasses.fields(part):
                yield from self._foreign(getattr(part, item.name))
        elif isinstance(part, tuple | list):
            for item in part:
                yield from self._foreign(item)

    def to_toml(self, recipe: Any) -> str:
        """Return the recipe as TOML text that `from_toml` reads back to an equal recipe."""
        return tomli_w.dumps(self.to_table(recipe))

    def from_toml(self, text: str) -> Recipe:
        """Return the recipe of a TOML text.

        Raises:
            RecipeError: with the key that is unknown, missing or of the wrong type.
        """
        return self.from_toml_as(Recipe, text)

    def from_toml_as(self, of: type[Run], text: str) -> Run:
        """Return the settings of class `of` from a TOML text."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"not TOML: {error}") from error
        return self._from_table(of, table)

    def from_table(self, table: Mapping[str, Any]) -> Recipe:
        """Return the recipe from nested tables, as from `to_table`."""
        return self._from_table(Recipe, table)

    def read(self, path: Path) -> Recipe:
        """Return the recipe in a file."""
        return self.read_as(Recipe, path)

    def read_as(self, of: type[Run], path: Path) -> Run:
        """Return the settings of class `of` in a file."""
        try:
            return self.from_toml_as(of, path.read_text(encoding="utf-8"))
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from error

    def replace_keys(self, recipe: Run, assignments: Mapping[str, str]) -> Run:
        """Return the recipe with fields replaced by `KEY=VALUE` texts.

        A key is a full path ("stages.0.fit.steps"), a kind and a field ("balanced.pool_size",
        "fit.steps", "fit-nets.layers.find"), or a field that only one part has ("pool_size"). A
        value is TOML, otherwise text.
        """
        knowing = self.permitting(recipe, self.allow_code)
        return knowing._from_table(type(recipe), knowing._assigned(recipe, assignments))

    def replace_fields(self, source: Source, assignments: Mapping[str, str]) -> Source:
        """Return a source with fields replaced by `KEY=VALUE` texts, as `replace_keys` does."""
        knowing = self.permitting(source, self.allow_code)
        made = knowing._build_kind("source", knowing._assigned(source, assignments), "source")
        assert isinstance(made, Source)
        return made

    def differing_keys(self, one: Run, other: Run, *, but: tuple[str, ...] = ()) -> list[str]:
        """Return the paths at which two recipes differ, except those that end in one of `but`."""
        ours, theirs = dict(_leaves(self.to_table(one))), dict(_leaves(self.to_table(other)))
        paths = [*ours, *(path for path in theirs if path not in ours)]
        return [p for p in paths if ours.get(p) != theirs.get(p) and not p.endswith(but or ("\0",))]

    def _from_table(self, of: type[Run], table: Mapping[str, Any]) -> Run:
        recipe = self._build(of, table, "")
        assert isinstance(recipe, of)
        return recipe

    def _build(self, cls: type, table: Any, path: str) -> Any:
        if not isinstance(table, Mapping):
            raise RecipeError(f"{path or 'recipe'}: expected a table, got {table!r}")
        fields = {item.name: item for item in dataclasses.fields(cls)}
        hints = _hints(cls, path)
        made = {}
        for key, value in table.items():
            if key == KIND:
                continue
            try:
                one_of("key", key, fields)
            except ValueError as error:
                raise RecipeError(f"{_join(path, key)}: {error}") from error
            made[key] = self._convert(hints[key], value, _join(path, key))
        missing = [
            name
            for name, item in fields.items()
            if name not in made
            and item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise RecipeError(f"{path or 'recipe'}: missing {', '.join(missing)}")
        try:
            return cls(**made)
        except ValueError as error:
            raise RecipeError(f"{path or 'recipe'}: {error}") from error

    def _convert(self, hint: Any, value: Any, path: str) -> Any:
        options = _options(hint)
        family = next((_FAMILIES[option] for option in options if option in _FAMILIES), None)
        if family is not None:
            return self._build_kind(family, value, path)
        nested = next(
            (o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None
        )
        if nested is not None:
            return self._build(nested, value, path)
        if (
            typing.get_origin(hint) is tuple
            and _holds_parts(hint)
            and isinstance(value, list | tuple)
        ):
            return self._convert_tuple(typing.get_args(hint), value, path)
        try:
            return TypeAdapter(hint, config=ConfigDict(strict=False)).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]
            raise RecipeError(f"{path}: {problem['msg']}, got {problem['input']!r}") from error

    def _build_kind(self, family: str, value: Any, path: str) -> Any:
        if isinstance(value, str):  # only the kind, with default values
            value = {KIND: value}
        if not isinstance(value, Mapping) or KIND not in value:
            raise RecipeError(f"{path}: expected a table with a '{KIND}', got {value!r}")
        try:
            cls = self.settings_of(family, str(value[KIND]))
        except ValueError as error:
            raise RecipeError(f"{path}.{KIND}: {error}") from error
        return self._build(cls, value, path)

    def _convert_tuple(self, items: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
        hints = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
        if len(hints) != len(value):
            raise RecipeError(f"{path}: expected {len(hints)} items, got {len(value)}")
        return tuple(
            self._convert(hint, item, _join(path, str(i)))
            for i, (hint, item) in enumerate(zip(hints, value, strict=True))
        )

    def _assigned(self, part: Any, assignments: Mapping[str, str]) -> Any:
        table = self.to_table(part)
        for key, text in assignments.items():
            holders, name = _locate(table, part, key)
            value = _value(text)
            renamed = isinstance(value, str) and isinstance(holders[0].get(name), Mapping)
            for holder in holders:
                holder[name] = value
            if renamed:  # another kind of part, whose fields later keys may mean
                part = self._build(type(part), table, "")
                table = self.to_table(part)
        return table


def _options(hint: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(option for part in typing.get_args(hint) for option in _options(part))
    return (hint,)


def is_part(part: Any) -> bool:
    """Return whether an object can be a source, an objective, a rule or a transform."""
    return not isinstance(part, type) and any(isinstance(part, protocol) for protocol in _FAMILIES)


def _name(settings: type, path: str) -> str:
    try:
        return class_name(settings)
    except ValueError as error:
        raise RecipeError(f"{path or 'recipe'}: {error}") from error


def _hints(settings: type, path: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(settings)
    except NameError as error:
        raise RecipeError(
            f"{path or 'recipe'}: the fields of {settings.__name__} have types that cannot be "
            f"resolved ({error}); import them in its file, outside of TYPE_CHECKING"
        ) from error


def _is_family(hint: Any) -> bool:
    return any(option in _FAMILIES for option in _options(hint))


def _holds_parts(hint: Any) -> bool:
    return any(
        option in _FAMILIES or dataclasses.is_dataclass(option) or _holds_parts(option)
        for part in typing.get_args(hint)
        for option in _options(part)
    )


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _leaves(table: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from _leaves(value, _join(path, key))
    elif isinstance(table, list) and any(isinstance(item, Mapping | list) for item in table):
        for i, value in enumerate(table):
            yield from _leaves(value, _join(path, str(i)))
    else:
        yield path, table


def _parts(table: Any, part: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield every table of a recipe with its path and its settings object."""
    if dataclasses.is_dataclass(part):
        yield path, table, part
        for item in dataclasses.fields(part):
            if item.name in table:
                value = getattr(part, item.name)
                yield from _parts(table[item.name], value, _join(path, item.name))
    elif isinstance(part, tuple | list):
        for i, item in enumerate(part):
            yield from _parts(table[i], item, _join(path, str(i)))


def _locate(table: Any, whole: Any, key: str) -> tuple[list[Any], str]:
    """Return the tables that match a key, several if the same part occurs several times."""
    place, _, name = key.rpartition(".")
    found = []
    kinds = {path: holder.get(KIND) for path, holder, _ in _parts(table, whole)}
    for path, holder, part in _parts(table, whole):
        names = {f.name for f in dataclasses.fields(part)}
        holding, _, last = path.rpartition(".")
        own = kind_name(type(part))  # the kind of a user class also has its file
        called = {path, last, own, holder.get(KIND), f"{kinds.get(holding)}.{last}"}
        if name in names and (not place or place in called):
            found.append((path, holder, part))
    exact = [holder for path, holder, _ in found if path == place]
    if len(exact) == 1:
        return exact, name
    if any(part != found[0][2] for _, _, part in found):
        paths = ", ".join(_join(path, name) for path, _, _ in found)
        raise RecipeError(f"key '{key}' is ambiguous; use one of: {paths}")
    if not found:
        known = {f.name for _, _, part in _parts(table, whole) for f in dataclasses.fields(part)}
        try:
            one_of("key", name, known)
        except ValueError as error:
            raise RecipeError(f"--set {key}: {error}") from error
        raise RecipeError(f"--set {key}: no part '{place}' has a field '{name}'")
    return [holder for _, holder, _ in found], name
