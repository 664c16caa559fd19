"""Commands that write sets, files and pages: call the verb, print the result."""

import typer

from doublure.cli.commands import Options, add_command
from doublure.cli.console import errors, print_json, progression, results


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    for verb in (demo, synthesize, export, report):
        add_command(app, verb)


def demo(options: Options, *, json: bool) -> None:
    """Run a demonstration on digits, offline, in minutes: a student trained without digits."""
    from doublure.verbs.demo import demo as work

    with progression() as shown:
        summary = work(**options, say=shown.say, watch=shown.watch)
    if json:
        print_json(summary)
        return
    for arm in summary["arms"]:
        results.print(f"{arm['name']:32}{arm['accuracy']:7.2%}  {arm['correct']}/{arm['count']}")
    results.print(f"report  {options['out'] / 'report.html'}", markup=False)


def synthesize(options: Options, *, json: bool) -> None:
    """Write images of any source to disk."""
    from doublure.verbs.synthesize import OPTIMISATION_PICTURE
    from doublure.verbs.synthesize import synthesize as work

    with progression() as shown:
        made = work(**options, say=shown.say, watch=shown.watch)
    if json:
        print_json(made)
        return
    results.print(f"{made['counts']['images']:,} images in {made['folder']}", markup=False)
    if (picture := options["out"] / OPTIMISATION_PICTURE).exists():
        results.print(f"optimisation of the first images: {picture}", markup=False)


def export(options: Options, *, json: bool) -> None:
    """Write a network in deployable forms, each verified against it."""
    from doublure.verbs.export import export as work

    made = work(**options, say=lambda text: errors.print(text, markup=False))
    if json:
        print_json([row.to_json() for row in made])
        return
    for row in made:
        scored = "" if row.accuracy is None else f"accuracy {row.accuracy:.2%}  "
        scored += "".join(f"{name} {value:.4g}  " for name, value in (row.scores or {}).items())
        results.print(
            f"{row.form:12}{row.bytes:>12,} bytes  {row.latency_ms:8.3f} ms  "
            f"agreement {row.agreement:.2%}  {scored}{row.note}",
            markup=False,
        )


def report(options: Options, *, json: bool) -> None:
    """Rebuild a run's report.html."""
    from doublure.verbs.report import report as work

    page = work(**options)
    if json:
        print_json({"report": str(page)})
    else:
        results.print(str(page), markup=False)
