"""Parts of a page that a script writes: found by their marks, replaced, and nothing else touched.

A part stands between `<!-- KIND: ARGUMENT -->` and `<!-- end -->`, each on a line of its own. A
script knows some kinds; parts of other kinds are left to the scripts that know them.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

Makers = Mapping[str, Callable[[str], str]]

_PART = re.compile(
    r"^(?P<begin><!-- (?P<kind>[\w-]+): (?P<argument>[^\n]*?) -->)\n"
    r"(?P<body>(?:(?!^<!-- ).)*?)^(?P<end><!-- end -->)$",
    re.MULTILINE | re.DOTALL,
)


def pages() -> Iterator[Path]:
    """Yield every page: the README and all of docs/."""
    yield ROOT / "README.md"
    yield from sorted(DOCS.rglob("*.md"))


def filled(text: str, makers: Makers) -> str:
    """Return a page with its marked parts made anew."""

    def replaced(part: re.Match[str]) -> str:
        if part["kind"] not in makers:
            return part[0]
        body = makers[part["kind"]](part["argument"]).strip("\n")
        return f"{part['begin']}\n\n{body}\n\n{part['end']}"

    return _PART.sub(replaced, text)


def stale(makers: Makers) -> dict[Path, str]:
    """Return the pages that differ from what the makers say, with what they should be."""
    found = {}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        made = filled(text, makers)
        if made != text:
            found[page] = made
    return found


def write(makers: Makers) -> None:
    """Bring every page up to date, and name those that changed."""
    for page, text in stale(makers).items():
        page.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{page.relative_to(ROOT)}\n")
