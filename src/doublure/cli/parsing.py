"""Parsers of typed values: numbers, sizes, times and known names.

This module must not import torch, so that --help is fast. The known names come from reference.json,
which a test compares with the code.
"""

import json
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import typer

from doublure.compress.shrinking_plan import check_budget, parse_target
from doublure.core.checks import one_of

REFERENCE: dict[str, Any] = json.loads(
    resources.files("doublure.cli").joinpath("reference.json").read_text(encoding="utf-8")
)


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a text such as "0.5,0.5,0.5"."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers with commas, as 0.5,0.5,0.5; got '{text}'"
        ) from None


def size(text: str) -> tuple[int, int]:
    """Return height and width of a text such as "32" or "180x240"."""
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise typer.BadParameter(f"expected pixels, as 32 or 180x240; got '{text}'")
    return sides[0], sides[-1]


# Of a time that is typed, in seconds: longer ones are slips.
LONGEST = 60 * 86400.0


def seconds(text: str) -> float:
    """Return the seconds of a text such as "90s", "20m" or "1.5h"."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        value = 0.0
    if value > LONGEST:
        raise typer.BadParameter(f"'{text}' is more than 60 days; give less time, or --steps")
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"expected a time with s, m or h, as 20m; got '{text}'")
    return value


def seed(text: str) -> int:
    """Return the seed in a text; torch accepts 63 bits."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise typer.BadParameter(f"expected a whole number from 0 to 2^63 - 1, got '{text}'")
    return int(text)


def assignment(text: str) -> tuple[str, str]:
    """Return key and value of a text KEY=VALUE."""
    key, mark, value = text.partition("=")
    if not key or not mark:
        raise typer.BadParameter(f"expected KEY=VALUE, got '{text}'")
    return key, value


def known(name: str, kind: str, text: str, way_out: str = "") -> str:
    """Return `text` if the reference has it under `kind`; else refuse it with the nearest name."""
    try:
        return one_of(name, text, REFERENCE[kind], way_out=way_out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


# A user's own class, as `engine.foreign_parts` reads it: package.module:Class or file.py:Class.
_CLASS = re.compile(r"(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*")

# Data of a task's own kind; only the task can check whether they exist.
_KIND_OF_TASK = re.compile(r"[a-z][a-z0-9-]+:.+")


def source(text: str) -> str:
    """Return the text if it is a source's name, a class or an existing path; else refuse it."""
    if _CLASS.fullmatch(text) or _KIND_OF_TASK.fullmatch(text):
        return text
    path = Path(text.partition(":")[0])
    if (
        text.startswith("builtin/")
        or Path(text).exists()
        or any(path.parent.glob(f"{path.name}.*"))
    ):
        return text
    return known("source", "sources", text, "; or the path of an image folder, a SET or a .npz")


def formats(text: str) -> list[str]:
    """Return the formats of a text such as "onnx,pt2"."""
    return [known("format", "formats", name.strip()) for name in text.split(",")]


def one_known(name: str, kind: str) -> Callable[[str], str]:
    """Return a parser for names that the reference has under `kind`."""

    def parse(text: str) -> str:
        return known(name, kind, text)

    return parse


def several_known(name: str, kind: str) -> Callable[[str], list[str]]:
    """Return a parser of names with commas, each of which the reference has under `kind`."""

    def parse(text: str) -> list[str]:
        return [known(name, kind, part.strip()) for part in text.split(",")]

    return parse


def objective(text: str) -> str:
    """Return the text NAME or NAME=WEIGHT of a known objective or a user's class."""
    name = text.partition("=")[0]
    if not _CLASS.fullmatch(name):
        known("objective", "objectives", name)
    return text


def target(text: str) -> str:
    """Return the text of a limit of smaller networks: 0.3, 2MB or 5ms."""
    try:
        return parse_target(text).text
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def whole_budget(text: str) -> float:
    """Return the seconds of a text such as "20m", if enough for a student and its report."""
    budget = seconds(text)
    try:
        check_budget(budget)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return budget


def bits_or_same(text: str) -> int:
    """Return a number of bits; 0 for "same"."""
    if text == "same":
        return 0
    if not text.isdecimal():
        raise typer.BadParameter(f"expected a number of bits or 'same', got '{text}'")
    return int(text)


def bits_or_auto(text: str) -> int | str:
    """Return a number of bits, or "auto"."""
    if text == "auto":
        return text
    if not text.isdecimal():
        raise typer.BadParameter(f"expected a number of bits or 'auto', got '{text}'")
    return int(text)


def several_bits(text: str) -> tuple[int, ...]:
    """Return the bits of a text such as "4,5,6,8"."""
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"expected bits with commas, as 4,6,8; got '{text}'")
    return tuple(int(part) for part in parts)
