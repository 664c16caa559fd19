"""A whole run as one typed value, and the same value as TOML.

A recipe file holds every field of every part; the part that fills a field typed by a protocol
(a source, an objective, a rule) says its `kind`, a name of the catalogue. Unknown keys are
refused with the nearest name, values are validated by pydantic against the dataclass fields.
"""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from doublure import catalogue
from doublure.core.checks import one_of, positive
from doublure.core.initialisation import Initialization
from doublure.core.protocols import Objective, Rule, Source, StatelessObjective, Transform
from doublure.engine.answer_ring import Ring
from doublure.engine.fit import FitSettings
from doublure.engine.label_space import check_label_space
from doublure.nets.references import NetworkRef
from doublure.objectives.weighted import AnyObjective

KIND = "kind"
Verb = Literal["distill", "train", "prune", "quantize", "continual"]

# A recipe, or the settings of another verb that are written the same way.
Run = TypeVar("Run")


class RecipeError(ValueError):
    """A recipe cannot be read; the message names the key."""


@dataclass(frozen=True, kw_only=True)
class ModelTransform:
    """What is done to the student's architecture, and the images by which it is judged.

    Args:
        source: None where the transform needs to see nothing.
        num_images: of the source that the transform sees.
    """

    transform: Transform
    source: Source | None = None
    num_images: int = 256

    def __post_init__(self) -> None:
        positive("num_images", self.num_images)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training: a source, an objective, a loop and rules, with a new optimizer.

    Args:
        model_transform: what happens to the student's architecture before.
        init: how its weights begin; None leaves them as they are.
        init_source: the images that `init` sees; None takes what the stage shows.
        ring: how many answers of the teacher are kept and shown again; None asks in every step.
    """

    source: Source
    objective: AnyObjective
    fit: FitSettings = field(default_factory=FitSettings)
    rules: tuple[Rule, ...] = ()
    model_transform: ModelTransform | None = None
    init: Initialization | None = None
    init_source: Source | None = None
    ring: Ring | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a student's bytes, and where to evaluate it afterwards.

    Args:
        method: the published recipe it follows, or "custom" where a part was swapped.
        teacher: None for `train`.
        student: for `prune`, `quantize` and `continual` the teacher's own, which they start from.
        own_label_space: the student's classes are not its teacher's, who is asked for layers alone.
        plan: why the recipe is as it is, in a few sentences, where it was chosen for its networks.
        eval: labelled data to score on; never changes the student.
    """

    verb: Verb = "distill"
    method: str = "custom"
    teacher: NetworkRef | None = None
    student: NetworkRef
    stages: tuple[Stage, ...]
    seed: int = 0
    device: str = "auto"
    own_label_space: bool = False
    plan: tuple[str, ...] = ()
    eval: str | None = None

    def __post_init__(self) -> None:
        for stage in self.stages if self.own_label_space else ():
            check_label_space(stage.objective, stage.source)


def to_table(part: Any) -> Any:
    """Return a settings object as plain tables and lists, defaults included."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        kind = catalogue.kind_of(type(part))
        table = {KIND: kind} if kind else {}
        for item in dataclasses.fields(part):
            value = getattr(part, item.name)
            if value is not None:
                table[item.name] = to_table(value)
            elif item.default is not None:
                raise RecipeError(f"{type(part).__name__}.{item.name}: TOML cannot hold None here")
        return table
    if isinstance(part, tuple | list):
        return [to_table(item) for item in part]
    return str(part) if isinstance(part, Path) else part


def to_toml(recipe: Any) -> str:
    """Return the recipe as TOML text that `from_toml` reads back to an equal recipe."""
    return tomli_w.dumps(to_table(recipe))


def from_toml(text: str) -> Recipe:
    """Return the recipe of a TOML text.

    Raises:
        RecipeError: names the key that is unknown, missing or ill-typed.
    """
    return from_toml_as(Recipe, text)


def from_toml_as(of: type[Run], text: str) -> Run:
    """Return the settings of class `of` that a TOML text fills."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"not TOML: {error}") from error
    return _from_table(of, table)


def from_table(table: Mapping[str, Any]) -> Recipe:
    """Return the recipe of nested tables, as `to_table` makes them."""
    return _from_table(Recipe, table)


def read(path: Path) -> Recipe:
    """Return the recipe in a file."""
    return read_as(Recipe, path)


def read_as(of: type[Run], path: Path) -> Run:
    """Return the settings of class `of` in a file."""
    try:
        return from_toml_as(of, path.read_text(encoding="utf-8"))
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def replace_keys(recipe: Run, assignments: Mapping[str, str]) -> Run:
    """Return the recipe with fields replaced by `KEY=VALUE` texts.

    A key is a full path ("stages.0.fit.steps"), a kind and a field ("balanced.pool_size",
    "fit.steps", "fit-nets.layers.find"), or a field that only one part has ("pool_size"). A value
    is TOML, or else text.
    """
    return _from_table(type(recipe), _assigned(recipe, assignments))


def replace_fields(source: Source, assignments: Mapping[str, str]) -> Source:
    """Return a source with fields replaced by `KEY=VALUE` texts, as `replace_keys` does."""
    made = _build_kind("source", _assigned(source, assignments), "source")
    assert isinstance(made, Source)
    return made


def differing_keys(one: Run, other: Run, *, but: tuple[str, ...] = ()) -> list[str]:
    """Return the full paths at which two recipes differ, except those that end in one of `but`."""
    ours, theirs = dict(_leaves(to_table(one))), dict(_leaves(to_table(other)))
    paths = [*ours, *(path for path in theirs if path not in ours)]
    return [p for p in paths if ours.get(p) != theirs.get(p) and not p.endswith(but or ("\0",))]


_FAMILIES: dict[Any, str] = {
    Source: "source",
    Objective: "objective",
    StatelessObjective: "objective",
    Rule: "rule",
    Transform: "transform",
    Initialization: "initialisation",
}


def _from_table(of: type[Run], table: Mapping[str, Any]) -> Run:
    recipe = _build(of, table, "")
    assert isinstance(recipe, of)
    return recipe


def _build(cls: type, table: Any, path: str) -> Any:
    if not isinstance(table, Mapping):
        raise RecipeError(f"{path or 'recipe'}: expected a table, got {table!r}")
    fields = {item.name: item for item in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    made = {}
    for key, value in table.items():
        if key == KIND:
            continue
        try:
            one_of("key", key, fields)
        except ValueError as error:
            raise RecipeError(f"{_join(path, key)}: {error}") from error
        made[key] = _convert(hints[key], value, _join(path, key))
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


def _convert(hint: Any, value: Any, path: str) -> Any:
    options = _options(hint)
    family = next((_FAMILIES[option] for option in options if option in _FAMILIES), None)
    if family is not None:
        return _build_kind(family, value, path)
    nested = next((o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None)
    if nested is not None:
        return _build(nested, value, path)
    if typing.get_origin(hint) is tuple and _holds_parts(hint) and isinstance(value, list | tuple):
        return _convert_tuple(typing.get_args(hint), value, path)
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=False)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise RecipeError(f"{path}: {problem['msg']}, got {problem['input']!r}") from error


def _build_kind(family: str, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping) or KIND not in value:
        raise RecipeError(f"{path}: expected a table with a '{KIND}', got {value!r}")
    try:
        cls = catalogue.settings_of(family, str(value[KIND]))
    except ValueError as error:
        raise RecipeError(f"{path}.{KIND}: {error}") from error
    return _build(cls, value, path)


def _convert_tuple(items: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    hints = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
    if len(hints) != len(value):
        raise RecipeError(f"{path}: expected {len(hints)} items, got {len(value)}")
    return tuple(
        _convert(hint, item, _join(path, str(i)))
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _options(hint: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(option for part in typing.get_args(hint) for option in _options(part))
    return (hint,)


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
    """Yield every table of a recipe with its path and the settings object it came from."""
    if dataclasses.is_dataclass(part):
        yield path, table, part
        for item in dataclasses.fields(part):
            if item.name in table:
                value = getattr(part, item.name)
                yield from _parts(table[item.name], value, _join(path, item.name))
    elif isinstance(part, tuple | list):
        for i, item in enumerate(part):
            yield from _parts(table[i], item, _join(path, str(i)))


def _assigned(part: Any, assignments: Mapping[str, str]) -> Any:
    table = to_table(part)
    for key, text in assignments.items():
        holders, name = _locate(table, part, key)
        for holder in holders:
            holder[name] = _value(text)
    return table


def _locate(table: Any, whole: Any, key: str) -> tuple[list[Any], str]:
    """Return the tables that a key means, several where the same part stands in several places."""
    place, _, name = key.rpartition(".")
    found = []
    kinds = {path: holder.get(KIND) for path, holder, _ in _parts(table, whole)}
    for path, holder, part in _parts(table, whole):
        names = {f.name for f in dataclasses.fields(part)}
        holding, _, last = path.rpartition(".")
        called = {path, last, holder.get(KIND), f"{kinds.get(holding)}.{last}"}
        if name in names and (not place or place in called):
            found.append((path, holder, part))
    exact = [holder for path, holder, _ in found if path == place]
    if len(exact) == 1:
        return exact, name
    if any(part != found[0][2] for _, _, part in found):
        paths = ", ".join(_join(path, name) for path, _, _ in found)
        raise RecipeError(f"key '{key}' is ambiguous; say which: {paths}")
    if not found:
        known = {f.name for _, _, part in _parts(table, whole) for f in dataclasses.fields(part)}
        try:
            one_of("key", name, known)
        except ValueError as error:
            raise RecipeError(f"--set {key}: {error}") from error
        raise RecipeError(f"--set {key}: no part '{place}' has a field '{name}'")
    return [holder for _, holder, _ in found], name
