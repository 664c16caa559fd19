"""The command `doublure`: its verbs and its error messages.

Exit status 0: done. 1: the work failed, with a one-line reason. 2: bad usage. Stopped by
Ctrl-C: 130, SIGTERM: 143, SIGHUP: 129.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from doublure.cli import console, looking, making, runs, shrinking, task_verbs, training
from doublure.core.interruption import StoppedVerb, install_handlers

INTERRUPTED = 130
# typer re-exports only one kind of usage error; all kinds derive from its base class.
_BadUsage = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])

app = typer.Typer(
    name="doublure",
    help="Distil and compress trained networks without their data.",
    epilog="Errors are one line; --debug shows the traceback.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (training, shrinking, looking, making, task_verbs):
    group.register(app)


def _tell_version(asked: bool) -> bool:
    if asked:
        from importlib import metadata

        console.results.print(f"doublure {metadata.version('doublure')}")
        raise typer.Exit
    return asked


@app.callback()
def doublure(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            callback=_tell_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Options before a verb."""


def run() -> None:
    """Run the command line; an error is one line on standard error."""
    debug = "--debug" in sys.argv
    if not (debug or sys.warnoptions):
        warnings.showwarning = console.hear
    install_handlers()
    sys.exit(status([word for word in sys.argv[1:] if word != "--debug"], debug=debug))


def status(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Run the command with `arguments`, print errors, and return the exit status."""
    runs.begin()
    if not arguments:
        app(["--help"], prog_name="doublure", standalone_mode=False)
        return 2
    try:
        code = app(arguments, prog_name="doublure", standalone_mode=False) or 0
    except _BadUsage as error:
        console.fail(error.format_message().removeprefix("Invalid value: "))
        return 2
    except StoppedVerb as stopped:
        return _tell_stop(stopped)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:  # the outermost handler: no caller could report more
        if debug:
            raise
        console.fail(_reason(error))
        return 1
    if code == INTERRUPTED:
        console.fail("interrupted; written files are intact, and --resume continues a run")
    return int(code)


def _tell_stop(stopped: StoppedVerb) -> int:
    """Print what was saved and how to continue; return the exit status."""
    saved = f" after {stopped.stop.saved}, which is saved" if stopped.stop.saved else ""
    console.fail(
        f"interrupted{saved}; written files are intact: the same command with --resume continues"
    )
    return stopped.stop.status


def _reason(error: Exception) -> str:
    text = str(error).strip()
    expected = (ValueError, RuntimeError, OSError, ArithmeticError)
    if text and isinstance(error, expected):
        return text
    return f"{type(error).__name__}: {text} (run again with --debug to see where)"
