"""The verbs that make sets, files and pages: parse, call, print."""

from pathlib import Path
from typing import Annotated, Any

import typer

from doublure.cli import options as o
from doublure.cli.console import errors, print_json, progression, results


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    for verb in (demo, synthesize, export, report):
        app.command()(verb)


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")] = Path("demo"),
    seed: o.Seed = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Digits, offline, in minutes: a student that never saw a digit, exported and reported."""
    from doublure.verbs.demo import demo as work

    with progression() as shown:
        summary = work(out, seed=seed or 0, overwrite=overwrite, say=shown.say, watch=shown.watch)
    if json:
        print_json(summary)
        return
    for arm in summary["arms"]:
        results.print(f"{arm['name']:32}{arm['accuracy']:7.2%}  {arm['correct']}/{arm['count']}")
    results.print(f"report  {out / 'report.html'}", markup=False)


def synthesize(
    source: Annotated[
        str, typer.Argument(parser=o.source, metavar="SOURCE", help=o.sources_help())
    ],
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Images to write.")],
    out: o.Out,
    size: o.Size = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Of the images (default: the teacher's, or 3)."),
    ] = None,
    teacher: o.Teacher = None,
    balance: Annotated[
        bool,
        typer.Option(
            "--balance", metavar="", help="As many images of each class the teacher names."
        ),
    ] = False,
    weights: o.Weights = None,
    mean: o.Mean = None,
    std: o.Std = None,
    classes: o.Classes = None,
    seed: o.Seed = None,
    device: o.Device = None,
    allow_code: o.AllowCode = [],  # noqa: B006  # typer reads it, nothing writes it
    set_: o.Set = [],  # noqa: B006
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Write images of any source to disk."""
    from doublure.verbs.synthesize import OPTIMISATION_PICTURE
    from doublure.verbs.synthesize import synthesize as work

    with progression() as shown:
        made = work(
            source,
            count=count,
            out=out,
            size=size,
            channels=channels,
            seed=seed or 0,
            teacher=teacher,
            balance=balance,
            weights=weights,
            mean=mean,
            std=std,
            classes=classes,
            device=device or "auto",
            set=dict(set_),
            resume=resume,
            overwrite=overwrite,
            allow_code=allow_code,
            say=shown.say,
            watch=shown.watch,
        )
    if json:
        print_json(made)
    else:
        results.print(f"{made['counts']['images']:,} images in {made['folder']}", markup=False)
        if (picture := out / OPTIMISATION_PICTURE).exists():
            results.print(f"how the first were found: {picture}", markup=False)


def export(
    model: o.Model,
    out: o.Out,
    format: Annotated[
        Any,
        typer.Option(
            parser=o.formats,
            metavar="NAME,...",
            help=f"Of {', '.join(o.REFERENCE['formats'])} (default: all of them).",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(parser=o.source, metavar="SOURCE", help="Images that int8 is calibrated on."),
    ] = None,
    eval: o.Eval = None,
    weights: o.Weights = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    allow_code: o.AllowCode = [],  # noqa: B006
    json: o.Json = False,
) -> None:
    """Write a network in deployable forms, each verified against it."""
    from doublure.verbs.export import export as work

    made = work(
        model,
        format=format or o.REFERENCE["formats"],
        out=out,
        calibration=calibration,
        eval=eval,
        weights=weights,
        mean=mean,
        std=std,
        size=size,
        classes=classes,
        allow_code=allow_code,
        say=lambda text: errors.print(text, markup=False),
    )
    if json:
        print_json([row.to_json() for row in made])
        return
    for row in made:
        scored = "" if row.accuracy is None else f"accuracy {row.accuracy:.2%}  "
        results.print(
            f"{row.form:12}{row.bytes:>12,} bytes  {row.latency_ms:8.3f} ms  "
            f"agreement {row.agreement:.2%}  {scored}{row.note}",
            markup=False,
        )


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    json: o.Json = False,
) -> None:
    """Write a run's report.html again."""
    from doublure.verbs.report import report as work

    page = work(run)
    if json:
        print_json({"report": str(page)})
    else:
        results.print(str(page), markup=False)
