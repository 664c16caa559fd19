"""Commands that examine something without changing it: call the verb, print the result."""

from itertools import groupby
from typing import Any

import typer
from rich.table import Table

from doublure.cli.commands import Options, add_command
from doublure.cli.console import errors, fail, print_json, results, waiting

# For a normalisation: the deviation of its images, and the likelihood.
_JUDGED = ("implied_std", "relative_likelihood")


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    for verb in (inspect, doctor, methods, evaluate, score):
        add_command(app, verb)
    audit = typer.Typer(help="Examine a network or a transfer set.")
    audit.callback()(_audit)
    add_command(audit, score, "transfer")
    add_command(audit, audit_saliency, "saliency")
    add_command(audit, audit_quantization, "quantization")
    app.add_typer(audit, name="audit")


def _audit() -> None:
    """Makes `audit` a group even with one command."""


def audit_quantization(options: Options, *, json: bool) -> None:
    """How badly can few bits go wrong on a network, and where?"""
    from doublure.verbs.audit_quantization import PAGE
    from doublure.verbs.audit_quantization import audit_quantization as work

    found = work(**options, say=_note)
    if json:
        print_json(found)
        return
    results.print(f"{found['verdict']}: {found['summary']}", markup=False)
    by_input = found["by_input"]
    results.print(
        f"by image   learned {by_input['learned']:.1%}, one for all {by_input['constant']:.1%}, "
        f"oracle {by_input['oracle']:.1%}"
    )
    for name, share in found["accuracy"].items():
        results.print(f"accuracy   {name}: {share:.1%}", markup=False)
    if found["repair"]:
        results.print(
            f"mend       doublure quantize --model {found['model']} {found['repair']} --out DIR",
            markup=False,
        )
    results.print(f"page       {options['out'] / PAGE}", markup=False)


def inspect(options: Options, *, json: bool) -> None:
    """Describe a checkpoint, and check its normalisation."""
    from dataclasses import asdict

    from doublure.verbs.inspect import inspect as work

    finding = work(**options, say=_note)
    if json:
        print_json({name: value for name, value in asdict(finding).items() if name != "pictures"})
    else:
        _print_measurements(finding.measurements)
        _print_readings(finding.measurements["normalisation"])
    if finding.verdict == "fail":
        fail(finding.summary)
        raise typer.Exit(1)
    if not json:
        results.print(f"{finding.verdict}: {finding.summary}", markup=False)


def doctor(options: Options, *, json: bool) -> None:
    """List what this machine supports, and commands that add what is missing."""
    from doublure.verbs.doctor import doctor as work

    offers = work(**options)
    if json:
        print_json(offers)
        return
    for offer in offers:
        mark = "[green]yes[/]" if offer["there"] else "[yellow]no [/]"
        results.print(f"{mark} [bold]{offer['name']}[/]  ", end="")
        results.print(offer["detail"], markup=False)
        if offer["add"]:
            results.print(f"    add it with: {offer['add']}", markup=False)


def methods(options: Options, *, json: bool) -> None:
    """List all methods: paper, package, needs and verb."""
    from doublure.verbs.methods import methods as work

    entries = work(**options)
    if json:
        print_json(entries)
        return
    for package, group in groupby(entries, lambda entry: _package(entry["file"])):
        results.rule(f"[bold]{package}", align="left", style="dim")
        for entry in group:
            needs = ", ".join(entry["needs"])
            results.print(f"[bold]{entry['name']}[/]  [dim]needs {needs}[/]")
            if entry["paper"]:
                results.print(f"  {entry['paper']}", markup=False)
            results.print(f"  doublure {entry['verb']}", style="cyan", markup=False)


def _package(file: str) -> str:
    """Return the package of a method's file."""
    return file.removesuffix(".py").partition("/")[0]


def evaluate(options: Options, *, json: bool) -> None:
    """Evaluate a network on labelled images or on parallel text."""
    from doublure.verbs.evaluate import evaluate as work

    made = work(**options | {"device": options.get("device", "auto")}, say=_note)
    if json:
        print_json(made.to_json())
        return
    for line in made.lines():
        results.print(line.rstrip())
    if (rows := made.table()) is not None:
        table = Table(*rows[0], box=None, header_style="dim")
        for row in rows[1]:
            table.add_row(*row)
        results.print(table)


def score(options: Options, *, json: bool) -> None:
    """Score a transfer set for a teacher, before any training."""
    missing = [f"--{name}" for name in ("teacher", "transfer") if not options.get(name)]
    if "recipe" not in options and missing:
        raise typer.BadParameter(f"missing {' and '.join(missing)}, or --recipe FILE")
    from doublure.audits.ranking import places
    from doublure.audits.transfer_card import ranked_text
    from doublure.verbs.score import score as work

    with waiting() as watch:
        cards = work(**options, say=_note, watch=watch)
    if json:
        order = places([card.standing for card in cards])
        told = zip(order, cards, strict=True)
        print_json([card.to_json() | {"place": place} for place, card in told])
        return
    for card in cards:
        results.print(card.text(), markup=False)
        results.print()
    if len(cards) > 1:
        results.print(ranked_text(cards), markup=False)


def audit_saliency(options: Options, *, json: bool) -> None:
    """Whether heat maps survive another baseline, setting or method, or compression."""
    from doublure.verbs.audit_saliency import audit_saliency as work

    with waiting() as watch:
        audit = work(**options, say=_note, watch=watch)
    if json:
        print_json(audit)
        return
    table = Table("what differs", "likeness", "below the floor", box=None, header_style="dim")
    for name, entry in audit["factors"].items():
        gap = entry["gap"]
        span = f"{gap['value']:.2f} ({gap['low']:.2f} to {gap['high']:.2f})"
        table.add_row(name, f"{entry['likeness']:.2f}", span)
    results.print(table)
    for network, found in audit["networks"].items():
        told = ", ".join(f"{method} {entry['value']:.2f}" for method, entry in found.items())
        results.print(f"maps of {network} like the model's: {told}", markup=False)
    results.print(f"{audit['verdict']}: {audit['summary']}", markup=False)
    results.print(f"{options['out']}/audit.html", markup=False)


def _note(text: str) -> None:
    errors.print(text, style="yellow", markup=False)


def _print_measurements(measurements: Any) -> None:
    for name, value in measurements.items():
        if value not in ({}, None) and name != "normalisation":
            results.print(f"{name.replace('_', ' '):24}{_in_words(value)}", markup=False)


def _print_readings(normalisation: Any) -> None:
    """Show how likely each usual normalisation is, given the statistics of the first BatchNorm."""
    if not normalisation["checkable"]:
        return  # the summary has the reason
    table = Table("read as", "images of mean", "std", "likelihood", box=None)
    for reading in (normalisation["stated"], *normalisation["candidates"]):
        mean = " ".join(f"{value:.3g}" for value in reading["implied_mean"])
        deviation, likelihood = (f"{reading[key]:.2g}" for key in _JUDGED)
        table.add_row(reading["name"], mean, deviation, likelihood)
    results.print(table)


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
