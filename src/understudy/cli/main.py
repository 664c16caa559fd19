"""The command `understudy`: its verbs, and what a failure looks like.

Exit status 0: done. 1: the work failed, with a one-line reason. 2: bad usage.
"""

import sys

import typer

from understudy.cli import console, looking, making, training

app = typer.Typer(
    name="understudy",
    help="From a trained network without its data to one that can be deployed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (training, looking, making):
    group.register(app)


def run() -> None:
    """Run the command line; a failure is one line on standard error."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except KeyboardInterrupt:
        console.fail("interrupted; what was written is intact, go on with --resume")
        sys.exit(130)
    except Exception as error:  # the last stop: nothing above it could say more
        if debug:
            raise
        console.fail(_reason(error))
        sys.exit(1)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    expected = (ValueError, RuntimeError, OSError, ArithmeticError)
    if text and isinstance(error, expected):
        return text
    return f"{type(error).__name__}: {text} (run again with --debug to see where)"
