"""Parts that no catalogue lists: a user's own source, objective, rule or transform, by name.

A recipe calls such a part `package.module:Class`, or `file.py:Class` where its code was loaded from
a file. Loading one runs code, so it needs the permission that a `file:` network needs.
"""

import importlib
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from doublure.nets.user_file import load_module, module_of_file

_NAME = re.compile(r"(?P<place>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


def names_class(text: str) -> bool:
    """Return whether a text has the form `package.module:Class` or `file.py:Class`."""
    return _NAME.fullmatch(text) is not None


def class_name(settings: type) -> str:
    """Return the name that a recipe has for a settings class of a user.

    Raises:
        ValueError: nothing could load the class again: it stands in a function, or in a script
            or a session that is being run.
    """
    name, module = settings.__qualname__, settings.__module__
    if "." in name:
        raise ValueError(
            f"the class {name} stands inside another class or function, so that no recipe can name "
            "it; move it to the top of a module"
        )
    if module == "__main__":
        raise ValueError(
            f"the class {name} stands in the program that is being run, so that no recipe can name "
            "it; move it into a file of its own and import it"
        )
    if getattr(sys.modules.get(module), name, None) is not settings:
        raise ValueError(
            f"the class {name} is not what {module} holds under its name, so that no recipe can "
            "name it; save it in a file and import it"
        )
    file = module_of_file(module)
    return f"{module if file is None else file}:{name}"


def load_class(text: str, allow_code: bool | Collection[str | Path]) -> type:
    """Return the settings class of a name, as `class_name` gives it.

    Args:
        allow_code: files and modules whose code may run; True for any.

    Raises:
        ValueError: its code may not run, or has no such class; with the way out.
    """
    found = _NAME.fullmatch(text)
    assert found is not None, text
    place, name = found["place"], found["name"]
    is_file = place.endswith(".py")
    if not _allowed(place, is_file=is_file, allow_code=allow_code):
        raise ValueError(
            f"{text} would run the code in {place}; if you trust it, say --allow-code {place}"
        )
    module: Any = load_module(place) if is_file else _import(place, text)
    settings = getattr(module, name, None)
    if not isinstance(settings, type):
        raise ValueError(f"there is no class {name} in {place}")
    return settings


def _allowed(place: str, *, is_file: bool, allow_code: bool | Collection[str | Path]) -> bool:
    if isinstance(allow_code, bool):
        return allow_code
    if is_file:
        return Path(place).resolve() in {Path(item).resolve() for item in allow_code}
    return place in {str(item) for item in allow_code}


def _import(module: str, text: str) -> Any:
    try:
        return sys.modules.get(module) or importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"cannot import {module} for {text} ({error}); add its folder to PYTHONPATH"
        ) from error
