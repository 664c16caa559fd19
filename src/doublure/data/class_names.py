"""Class names from a text file."""

from pathlib import Path


def read_names(path: str | Path) -> tuple[str, ...]:
    """Return the class names in a text file, one per line."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read class names from {path}: {error}") from error
    names = tuple(line.strip() for line in lines)
    if not names or not all(names):
        number = names.index("") + 1 if names else 1
        raise ValueError(f"{path}: line {number} is empty; write one class name a line")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} names '{twice[0]}' twice; every class needs a name of its own")
    return names
