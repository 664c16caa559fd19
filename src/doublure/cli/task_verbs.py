"""Verbs of tasks, mounted as `doublure TASK VERB` from reference.json.

No other file names them: a task lists its verbs (`engine.task.OwnVerbs`), `make pages` writes them
into reference.json, and a verb's module is imported when it is called.
"""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from doublure.cli import parsing
from doublure.cli.commands import Command, Options, declare
from doublure.cli.console import print_json, progression, results
from doublure.cli.options import OPTIONS, Row
from doublure.cli.parsing import REFERENCE

# The parser of a parameter, by its type in reference.json.
TYPES: Mapping[str, Row] = {
    "flag": Row(takes=bool, look={"metavar": ""}),
    "text": Row(takes=str | None, look={"metavar": "TEXT"}),
    "count": Row(takes=int | None, look={"metavar": "N"}),
    "number": Row(takes=float | None, look={"metavar": "X"}),
    "path": Row(takes=Path | None, look={"metavar": "PATH"}),
    "texts": Row(takes=list[Any], look={"metavar": "TEXT", "parser": str}),
    "assignments": Row(
        takes=list[Any], look={"metavar": "KEY=VALUE", "parser": parsing.assignment}
    ),
}


def register(app: typer.Typer, tasks: Mapping[str, Any] = REFERENCE["tasks"]) -> None:
    """Add a group for each task with its own verbs."""
    for task, told in tasks.items():
        group = typer.Typer(help=told["help"])
        group.callback()(_keep)
        for verb, declared in told["verbs"].items():
            _add(group, verb, declared)
        app.add_typer(group, name=task)


def _keep() -> None:
    """Makes a group even with one command."""


def _add(group: typer.Typer, verb: str, declared: Mapping[str, Any]) -> None:
    def row(name: str) -> Row:
        """Return the common row of all verbs, else one by type; a docstring takes precedence."""
        option = declared["options"].get(name, {})
        made = OPTIONS.get(name) or TYPES[option["takes"]]
        said = {"help": option["help"]} if option.get("help") else {}
        return replace(made, look={"rich_help_panel": None, "help": "", **made.look, **said})

    declare(group, _command(declared), verb, dict(declared), row)


def _command(declared: Mapping[str, Any]) -> Command:
    def command(options: Options, *, json: bool) -> None:
        for item, option in declared["options"].items():
            if option["takes"] == "assignments" and item in options:
                options[item] = dict(options[item])
        module, _, name = declared["call"].partition(":")
        work = getattr(importlib.import_module(module), name)
        if "watch" in declared["optional"]:
            with progression() as shown:
                made = work(**options, say=shown.say, watch=shown.watch)
        else:
            made = work(**options)
        if json:
            print_json(made.to_json())
            return
        for line in made.lines():
            results.print(line, markup=False)

    command.__doc__ = declared["help"]
    return command
