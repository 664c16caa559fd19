"""The verbs that look and change nothing: parse, call, print."""

from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from doublure.cli import options as o
from doublure.cli.console import errors, fail, print_json, results, waiting

# Of a normalisation: the deviation of the images it makes, and how likely that is.
_JUDGED = ("implied_std", "relative_likelihood")


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    for verb in (inspect, doctor, methods, evaluate, score):
        app.command()(verb)
    audit = typer.Typer(help="Look at a network or a transfer set, and change nothing.")
    audit.callback()(_audit)
    audit.command("transfer")(score)
    app.add_typer(audit, name="audit")


def _audit() -> None:
    """Keeps `audit` a group while it has one command."""


def inspect(
    model: Annotated[str, typer.Argument(metavar="REF", help="A network, or a run's folder.")],
    weights: o.Weights = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    allow_code: o.AllowCode = [],  # noqa: B006  # typer reads it, nothing writes it
    json: o.Json = False,
) -> None:
    """What a checkpoint is, and whether its normalisation fits it."""
    from dataclasses import asdict

    from doublure.verbs.inspect import inspect as work

    said = {"weights": weights, "mean": mean, "std": std, "size": size, "classes": classes}
    finding = work(model, **said, allow_code=allow_code, say=_note)
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


def doctor(json: o.Json = False) -> None:
    """What this machine offers, and how to add what it does not."""
    from doublure.verbs.doctor import doctor as work

    offers = work()
    if json:
        print_json(offers)
        return
    for offer in offers:
        mark = "[green]yes[/]" if offer["there"] else "[yellow]no [/]"
        results.print(f"{mark} [bold]{offer['name']}[/]  ", end="")
        results.print(offer["detail"], markup=False)
        if offer["add"]:
            results.print(f"    add it with: {offer['add']}", markup=False)


def methods(json: o.Json = False) -> None:
    """Every method: paper, package, needs, and the verb that reaches it."""
    from doublure.verbs.methods import methods as work

    entries = work()
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
    """Return the package that a method's file is in."""
    return file.removesuffix(".py").partition("/")[0]


def evaluate(
    model: o.Model,
    data: Annotated[str, typer.Option(metavar="DATA", help="Labelled images, or parallel text.")],
    weights: o.Weights = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    batch_size: o.BatchSize = None,
    device: o.Device = None,
    skip_bad: o.SkipBad = False,
    allow_code: o.AllowCode = [],  # noqa: B006
    json: o.Json = False,
) -> None:
    """How many labelled images a network gets right, or how well it translates, with counts."""
    from doublure.verbs.evaluate import evaluate as work

    made = work(
        model,
        data,
        weights=weights,
        mean=mean,
        std=std,
        size=size,
        classes=classes,
        batch_size=batch_size or 256,
        device=device or "auto",
        skip_bad=skip_bad,
        allow_code=allow_code,
        say=_note,
    )
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


def score(
    teacher: o.Teacher = None,
    transfer: Annotated[
        list[str],
        typer.Option(parser=o.source, metavar="SOURCE", help="A source; several are compared."),
    ] = [],  # noqa: B006
    weights: o.Weights = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="A recipe.toml that says how they are fed; what it shows is scored, too.",
        ),
    ] = None,
    allow_code: o.AllowCode = [],  # noqa: B006
    count: Annotated[int, typer.Option(min=64, metavar="N", help="Images to look at.")] = 1024,
    seed: o.Seed = None,
    json: o.Json = False,
) -> None:
    """How good a transfer set is for a teacher, before any training."""
    missing = ["--teacher"] * (teacher is None) + ["--transfer"] * (not transfer)
    if recipe is None and missing:
        raise typer.BadParameter(f"missing {' and '.join(missing)}, or --recipe FILE")
    from doublure.audits.ranking import places
    from doublure.audits.transfer_card import ranked_text
    from doublure.verbs.score import score as work

    said = {"weights": weights, "mean": mean, "std": std, "size": size, "classes": classes}
    with waiting() as watch:
        cards = work(
            teacher,
            transfer,
            **said,
            recipe=recipe,
            count=count,
            seed=seed or 0,
            allow_code=allow_code,
            say=_note,
            watch=watch,
        )
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


def _note(text: str) -> None:
    errors.print(text, style="yellow", markup=False)


def _print_measurements(measurements: Any) -> None:
    for name, value in measurements.items():
        if value not in ({}, None) and name != "normalisation":
            results.print(f"{name.replace('_', ' '):24}{_in_words(value)}", markup=False)


def _print_readings(normalisation: Any) -> None:
    """Show how likely the usual normalisations make the images that the first BatchNorm saw."""
    if not normalisation["checkable"]:
        return  # the summary says why
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
