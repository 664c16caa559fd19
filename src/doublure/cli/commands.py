"""A verb's function as a command: its parameters are options of the same names.

reference.json has the parameters of every verb and their defaults, from the functions;
`cli.options` declares the options. A command only shows the result.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_origin

from typer import Argument, Option, Typer

from doublure.cli.options import OF_PYTHON, OPTIONS, PANELS, Row
from doublure.cli.parsing import REFERENCE
from doublure.core.interruption import Stopped, StoppedVerb

# The typed values by parameter; others are omitted.
Options = dict[str, Any]
Command = Callable[..., None]
_PLACES = {panel: place for place, panel in enumerate((None, *PANELS))}


def add_command(app: Typer, command: Command, name: str | None = None) -> None:
    """Add the command of the verb with a function's name.

    Args:
        command: called with (options, *, json): the typed values, and whether to print JSON.
        name: another name, for a verb with two commands.
    """
    verb = command.__name__
    declare(app, command, name or verb.replace("_", "-"), REFERENCE["verbs"][verb], of(verb))


def of(verb: str) -> Callable[[str], Row]:
    """Return a function from a verb's parameter to its row."""
    return lambda name: OPTIONS.get(f"{verb}.{name}", OPTIONS[name])


def declare(
    app: Typer, command: Command, name: str, declared: dict[str, Any], row: Callable[[str], Row]
) -> None:
    """Add a command whose parameters are declared as in reference.json.

    Args:
        row: returns the row of a parameter by name.
    """
    optional = declared["optional"] | {"json": False}
    parameters = [_parameter(row(item), item) for item in declared["required"]]
    parameters += [
        _parameter(row(item), item, optional[item]) for item in optional if item not in OF_PYTHON
    ]
    parameters.sort(key=lambda parameter: _PLACES[parameter.default.rich_help_panel])

    @functools.wraps(command)
    def run(*, json: bool, **typed: Any) -> None:
        given = {name: value for name, value in typed.items() if value is not None}
        if "set" in given:
            given["set"] = dict(given["set"])
        try:
            command(given, json=json)
        except Stopped as stop:  # typer would make every KeyboardInterrupt a status of 130
            raise StoppedVerb(stop) from stop

    # This is what typer reads.
    made: Any = run
    made.__signature__ = inspect.Signature(parameters)
    made.__annotations__ = {item.name: item.annotation for item in parameters}
    app.command(name)(made)


def _parameter(row: Row, name: str, default: Any = ...) -> inspect.Parameter:
    """Return a parameter in typer's form, with an ellipsis if it is required, else None."""
    if default is None:
        default = False if row.takes is bool else [] if get_origin(row.takes) is list else None
    elif default is not ... and "parser" in row.look:
        default = str(default)  # a parser reads texts
    flag = f"--{name.replace('_', '-')}"
    if default is True:
        flag += f"/--no-{flag.removeprefix('--')}"
    look = Argument(default, **row.look) if row.argument else Option(default, flag, **row.look)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=look, annotation=row.takes)
