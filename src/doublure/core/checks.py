"""Argument checks with messages of name, rule, value and remedy."""

import difflib
import re
from collections.abc import Iterable


def one_of(name: str, value: str, known: Iterable[str], *, way_out: str = "") -> str:
    """Return `value` if it is among `known`; otherwise raise with the nearest name."""
    names = sorted(known)
    if value in names:
        return value
    hint = nearest(value, names) or ";"
    raise ValueError(f"unknown {name} '{value}'{hint} known: {', '.join(names)}{way_out}")


def nearest(value: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" for the nearest name; "" if none is near."""
    near = difflib.get_close_matches(value, [*names], n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def positive(name: str, value: float) -> None:
    """Raise unless `value` is above zero."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def share(name: str, value: float) -> None:
    """Raise unless `value` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def kind_name(settings: type) -> str:
    """Return the kind of a settings class in recipes and the command: its name in kebab-case.

    A single capital at the end does not start a word: AdamW is adamw.
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z].)", "-", settings.__name__).lower()
