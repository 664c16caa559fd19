"""The rules of the library that no other tool keeps."""

import ast
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from doublure import catalogue
from doublure.core.optional import reason_absent
from doublure.verbs.reference import path, reference

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "doublure"
FILES = sorted(SOURCE.rglob("*.py"))
METHOD_PAGES = ROOT / "docs" / "methods"
EXTRAS = {"torchvision", "timm", "torchmetrics", "lightning"}
LONGEST = 400
# Files past that length, and why they are one.
LONG: dict[str, str] = {}


def module_of(file: Path) -> ModuleType:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return import_module(".".join(part for part in parts if part != "__init__"))


def kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def test_every_import_goes_to_a_lower_layer():
    if reason_absent("importlinter"):
        pytest.skip("import-linter is not installed")
    words = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_file_is_on_a_layer():
    layers = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = {file.relative_to(SOURCE).parts[0].removesuffix(".py") for file in FILES}
    packages -= {"__init__", "__main__"}
    assert [name for name in sorted(packages) if f"doublure.{name}" not in layers] == []


def test_packages_are_two_levels_deep_and_tasks_three():
    parts = [file.relative_to(SOURCE).parts for file in FILES]
    assert [p for p in parts if len(p) > (3 if p[0] == "tasks" else 2)] == []


def test_no_file_is_longer_than_a_reader_can_hold():
    long = {
        str(file.relative_to(SOURCE)): len(file.read_text(encoding="utf-8").splitlines())
        for file in FILES
    }
    long = {name: lines for name, lines in long.items() if lines > LONGEST and name not in LONG}
    assert long == {}


def test_the_extras_are_imported_in_one_place():
    importing = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            importing += [(file.name, name) for name in names if name.split(".")[0] in EXTRAS]
    assert importing == []


def test_every_package_says_its_question_and_every_file_what_it_is():
    silent = [str(file.relative_to(SOURCE)) for file in FILES if not module_of(file).__doc__]
    assert silent == []


def test_every_method_is_in_the_catalogue():
    cards = {file: vars(module_of(file)).get("CARD") for file in FILES}
    listed = [entry.card for entry in catalogue.METHODS]
    places = {entry.place for entry in catalogue.METHODS}
    missing = [
        str(file.relative_to(SOURCE))
        for file, card in cards.items()
        if card is not None
        and not any(card is other for other in listed)
        and str(file.relative_to(SOURCE).with_suffix("")) not in places
    ]
    assert missing == []


def test_every_kind_is_the_name_of_its_class():
    entries = [entry for entry in catalogue.METHODS if entry.settings is not None]
    assert [(e.name, kebab(e.settings.__name__)) for e in entries] == [
        (e.name, e.name) for e in entries
    ]


def test_every_method_lives_where_the_catalogue_says():
    for entry in catalogue.METHODS:
        file = SOURCE / f"{entry.place}.py"
        assert file.exists(), entry
        if entry.settings is not None:
            assert entry.settings.__module__ == f"doublure.{entry.place.replace('/', '.')}"


def test_the_reference_of_the_command_line_is_true():
    assert json.loads(path().read_text(encoding="utf-8")) == reference(), "run `make pages`"


@pytest.mark.skipif(
    not (METHOD_PAGES / "index.md").exists(), reason="docs/methods is not written yet"
)
def test_every_method_has_a_page():
    pages = {page.stem for page in METHOD_PAGES.glob("*.md")}
    assert [entry.name for entry in catalogue.METHODS if entry.name not in pages] == []


def test_the_project_speaks_of_itself_alone():
    # In two halves, so that this file does not speak of them either.
    strange = re.compile("|".join(["/wo" + "rk/", r"\.\./sh" + "ared", r"\.lib" + "rary"]))
    folders = (ROOT / name for name in ("src", "tests", "docs", "benchmarks"))
    texts = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    texts += [file for file in ROOT.iterdir() if file.is_file()]
    suffixes = {".py", ".md", ".toml", ".json", ".html", ".svg", ".txt", ".yml", ""}
    spoken = [
        str(file.relative_to(ROOT))
        for file in texts
        if file.suffix in suffixes and strange.search(file.read_text("utf-8", errors="ignore"))
    ]
    assert spoken == []
