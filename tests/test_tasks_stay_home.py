"""No code outside of `tasks/` tells tasks apart: by a contract's class, or by a task's name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import doublure
from doublure.tasks import TASKS

SOURCE = Path(doublure.__file__).parent
# What is above the tasks lists what there is; it decides nothing by it.
LISTS = {"catalogue.py", "recipes.py"}
FILES = [
    file
    for file in SOURCE.rglob("*.py")
    if "tasks" not in file.relative_to(SOURCE).parts and file.name not in LISTS
]
NAMES = {task.name for task in TASKS}


def branches(tree: ast.AST) -> Iterator[str]:
    """Yield what a file asks of a contract's class or of a task's name, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in ("isinstance", "issubclass"):
            for name in names_in(node.args[1]):
                if is_contract(name):
                    yield f"line {node.lineno}: {called(node)} of {name}"
        elif isinstance(node, ast.MatchClass):
            for name in names_in(node.cls):
                if is_contract(name):
                    yield f"line {node.lineno}: match of {name}"
        elif isinstance(node, ast.Compare):
            for part in (node.left, *node.comparators):
                if isinstance(part, ast.Constant) and part.value in NAMES:
                    yield f"line {node.lineno}: compares with '{part.value}'"
                if isinstance(part, ast.Name) and is_contract(part.id):
                    yield f"line {node.lineno}: compares with {part.id}"
        elif isinstance(node, ast.MatchValue) and literal(node.value) in NAMES:
            yield f"line {node.lineno}: matches '{literal(node.value)}'"


def literal(node: ast.AST) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def names_in(node: ast.AST) -> list[str]:
    return [
        part.id if isinstance(part, ast.Name) else part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Name | ast.Attribute)
    ]


def is_contract(name: str) -> bool:
    return name.endswith("Contract") and name != "PartialContract"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_file_tells_tasks_apart(file):
    assert list(branches(ast.parse(file.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(\n    contract,\n    TextContract | InputContract,\n)",
        "isinstance(x, (int, protocols.InputContract))",
        "match contract:\n    case InputContract():\n        pass",
        "task.name == 'translation'",
        "match name:\n    case 'classification':\n        pass",
        "type(contract) is TextContract",
    ],
)
def test_a_branch_is_found_over_several_lines(code):
    assert list(branches(ast.parse(code)))
