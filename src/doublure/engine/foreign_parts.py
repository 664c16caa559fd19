"""Parts outside of the catalogue: a user's own source, objective, rule or transform, by name.

Its kind in a recipe is `package.module:Class`, or `file.py:Class` if its code comes from a file.
Loading it runs code, so it needs the same permission as a `file:` network.
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
    """Return the kind of a user's settings class in a recipe.

    Raises:
        ValueError: the class cannot be loaded again: it is defined in a function, or in the running
            script or session.
    """
    name, module = settings.__qualname__, settings.__module__
    if "." in name:
        raise ValueError(
            f"the class {name} is defined inside another class or function, so that no recipe can "
            f"name it; move it to the top level of a module"
        )
    if module == "__main__":
        raise ValueError(
            f"the class {name} is defined in the running program, so that no recipe can name it; "
            f"move it into its own file and import it"
        )
    if getattr(sys.modules.get(module), name, None) is not settings:
        raise ValueError(
            f"{module} has another object under the name of the class {name}, so that no recipe "
            f"can name it; save it in a file and import it"
        )
    file = module_of_file(module)
    return f"{module if file is None else file}:{name}"


def load_class(text: str, allow_code: bool | Collection[str | Path]) -> type:
    """Return the settings class of a name, as `class_name` gives it.

    Args:
        allow_code: files and modules whose code may run; True for any.

    Raises:
        ValueError: its code has no permission, or no such class.
    """
    found = _NAME.fullmatch(text)
    assert found is not None, text
    place, name = found["place"], found["name"]
    is_file = place.endswith(".py")
    if not _allowed(place, is_file=is_file, allow_code=allow_code):
        raise ValueError(
            f"{text} would run the code in {place}; if you trust it, use --allow-code {place}"
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
