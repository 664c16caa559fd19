"""The verbs that change a trained network: parse, call, print."""

from typing import Annotated, Any

import typer

from doublure.cli import options as o
from doublure.cli.console import print_json, progression, results
from doublure.cli.runs import TEACH, Option, needed, run_verb, sharing
from doublure.compress.shrinking_plan import check_budget, parse_target
from doublure.core.checks import one_of

_CHANGE = "The change"
_DEFAULTS = o.REFERENCE["compress"]

Model = Annotated[
    str | None, typer.Option(help="REF of the network, or a run's folder.", metavar="REF")
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help=f"Optimizer steps of recovery (default {_DEFAULTS['prune_steps']}; quantize: 0).",
        rich_help_panel="The training",
    ),
]
TrainBatchNorm = Annotated[
    bool,
    typer.Option(
        "--train-batchnorm",
        metavar="",
        help="Let BatchNorm take the transfer set's statistics.",
        rich_help_panel=_CHANGE,
    ),
]

RECOVER = TEACH | {"steps": Option(Steps)}


def _importance(text: str) -> str:
    return o.known("importance", "importances", text)


def _loss(text: str) -> str:
    return o.known("loss", "pruning_losses", text)


def _version(text: str) -> str:
    try:
        return one_of("strategy", text, _DEFAULTS["strategies"])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _clip(text: str) -> str:
    return o.known("calibration_method", "calibration_methods", text)


def _target(text: str) -> str:
    try:
        return parse_target(text).text
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _whole_budget(text: str) -> float:
    seconds = o.seconds(text)
    try:
        check_budget(seconds)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return seconds


def _end_bits(text: str) -> int:
    if text == "same":
        return 0
    if not text.isdecimal():
        raise typer.BadParameter(f"expected a number of bits or 'same', got '{text}'")
    return int(text)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    for verb in (shrink, prune, quantize, continual):
        app.command()(verb)


def shrink(
    teacher: Annotated[str, typer.Option(help="REF of the teacher.", metavar="REF")],
    target: Annotated[
        Any,
        typer.Option(
            parser=_target,
            metavar="SIZE",
            help="At most: 0.3 (of the teacher's bytes), 2MB, or 5ms an image.",
        ),
    ],
    budget: Annotated[
        Any,
        typer.Option(parser=_whole_budget, metavar="TIME", help="For all of it: 90s, 20m, 1.5h."),
    ],
    out: o.Out,
    student: Annotated[
        str | None,
        typer.Option(help="REF of a student that is tried as well.", metavar="REF"),
    ] = None,
    transfer: o.Transfer = None,
    eval: o.Eval = None,
    weights: o.Weights = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    skip_bad: o.SkipBad = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images a step (default 128, or 32 for slow networks).",
            rich_help_panel="The training",
        ),
    ] = None,
    seed: o.Seed = None,
    device: o.Device = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    allow_code: o.AllowCode = [],  # noqa: B006  # typer reads it, nothing writes it
    json: o.Json = False,
) -> None:
    """Make several smaller networks, compare them, and recommend one."""
    from doublure.verbs.shrink import shrink as work

    with progression() as shown:
        summary = work(
            teacher,
            target=target,
            budget=budget,
            out=out,
            student=student,
            transfer=transfer,
            eval=eval,
            weights=weights,
            mean=mean,
            std=std,
            size=size,
            classes=classes,
            skip_bad=skip_bad,
            batch_size=batch_size,
            seed=seed or 0,
            device=device,
            resume=resume,
            overwrite=overwrite,
            allow_code=allow_code,
            say=shown.say,
            watch=shown.watch,
        )
    if json:
        print_json(summary)
        return
    for row in (summary["teacher"], *summary["rows"]):
        results.print(_line(row, summary), markup=False)
    for item in (*summary["failed"], *summary["left_out"]):
        results.print(f"without {item['name']}: {item['why']}", markup=False)
    results.print(summary["recommendation"]["reason"], markup=False)
    results.print(f"file       {out / summary['recommendation']['path']}", markup=False)
    results.print(f"report     {out / 'report.html'}", markup=False)


def _line(row: dict[str, Any], summary: dict[str, Any]) -> str:
    form = "int8" if row["form"] == "int8-onnx" else "float32"
    agreed = " ".join(f"{ratio:6.1%}" for ratio in row["agreement"].values())
    scored = "" if row["accuracy"] is None else f"  accuracy {row['accuracy']:.1%}"
    chosen = "  <-" if row["path"] == summary["recommendation"]["path"] else ""
    return (
        f"{row['candidate']:20}{form:8}{row['bytes']:>12,} bytes "
        f"{row['parameters']:>11,} parameters {row['macs'] / 1e6:8.1f} MMACs "
        f"{row['latency_ms']:8.3f} ms  agreement {agreed}{scored}{chosen}"
    )


@sharing(RECOVER)
def prune(
    out: o.Out,
    model: Model = None,
    ratio: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Of all filters, in (0, 1).", rich_help_panel=_CHANGE),
    ] = _DEFAULTS["ratio"],
    importance: Annotated[
        Any,
        typer.Option(
            parser=_importance,
            metavar="NAME",
            help=f"Of {', '.join(o.REFERENCE['importances'])}.",
            rich_help_panel=_CHANGE,
        ),
    ] = _DEFAULTS["importance"],
    loss: Annotated[
        Any,
        typer.Option(
            parser=_loss,
            metavar="NAME",
            help=f"That taylor squares: {', '.join(o.REFERENCE['pruning_losses'])}.",
            rich_help_panel=_CHANGE,
        ),
    ] = _DEFAULTS["loss"],
    rounds: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Prune a part, recover, N times.", rich_help_panel=_CHANGE
        ),
    ] = 1,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair/--no-repair",
            metavar="",
            help="Solve what is left of each layer by least squares (default: yes).",
            rich_help_panel=_CHANGE,
            show_default=False,
        ),
    ] = True,
    images: Annotated[
        str | None,
        typer.Option(
            parser=o.source,
            metavar="SOURCE",
            help="By which importance is judged (default: the transfer set).",
            rich_help_panel=_CHANGE,
        ),
    ] = None,
    transfer: o.Transfer = None,
    train_batchnorm: TrainBatchNorm = False,
    **options: Any,
) -> None:
    """Remove the least important filters of a network, and distil it back."""
    needed(options, model=model)
    from doublure.verbs.prune import prune as work

    run_verb(
        work,
        model,
        ratio,
        out=out,
        options=options,
        importance=importance,
        loss=loss,
        rounds=rounds,
        repair=repair,
        images=images,
        transfer=transfer,
        train_batchnorm=train_batchnorm,
    )


@sharing(RECOVER)
def quantize(
    out: o.Out,
    model: Model = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            parser=o.source,
            metavar="SOURCE",
            help="For the ranges of activations (default: the transfer set).",
            rich_help_panel=_CHANGE,
        ),
    ] = None,
    weight_bits: Annotated[
        int,
        typer.Option(
            metavar="BITS", help="Of weights: 2 to 8, 32 for none.", rich_help_panel=_CHANGE
        ),
    ] = _DEFAULTS["weight_bits"],
    activation_bits: Annotated[
        int,
        typer.Option(metavar="BITS", help="Of layers' inputs, likewise.", rich_help_panel=_CHANGE),
    ] = _DEFAULTS["activation_bits"],
    first_last_bits: Annotated[
        Any,
        typer.Option(
            parser=_end_bits,
            metavar="BITS|same",
            help="Of the first and last layer at least.",
            rich_help_panel=_CHANGE,
        ),
    ] = str(_DEFAULTS["first_last_bits"]),
    calibration_method: Annotated[
        Any,
        typer.Option(
            parser=_clip,
            metavar="NAME",
            help=f"How ranges are taken: {', '.join(o.REFERENCE['calibration_methods'])}.",
            rich_help_panel=_CHANGE,
        ),
    ] = _DEFAULTS["calibration_method"],
    correct_bias: Annotated[
        bool,
        typer.Option(
            "--correct-bias",
            metavar="",
            help="Move channels by the error of their means.",
            rich_help_panel=_CHANGE,
        ),
    ] = False,
    transfer: o.Transfer = None,
    train_batchnorm: TrainBatchNorm = False,
    **options: Any,
) -> None:
    """Round a network to few bits, calibrated on any images, and distil it back if asked."""
    needed(options, model=model)
    from doublure.verbs.quantize import quantize as work

    summary = run_verb(
        work,
        model,
        calibration,
        out=out,
        options=options,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        first_last_bits=first_last_bits,
        calibration_method=calibration_method,
        correct_bias=correct_bias,
        transfer=transfer,
        train_batchnorm=train_batchnorm,
    )
    if summary and not options["json"]:
        results.print(
            "speed      not timed: rounding is simulated here; export int8-onnx, timed there"
        )


@sharing(RECOVER)
def continual(
    out: o.Out,
    model: Model = None,
    data: o.Data = None,
    strategy: Annotated[
        Any,
        typer.Option(
            parser=_version,
            metavar="NAME",
            help=f"What holds the old classes: {', '.join(_DEFAULTS['strategies'])}.",
            rich_help_panel=_CHANGE,
        ),
    ] = _DEFAULTS["strategies"][0],
    transfer: o.Transfer = None,
    train_batchnorm: TrainBatchNorm = False,
    **options: Any,
) -> None:
    """Teach a network new classes without the data of the old ones."""
    needed(options, model=model, data=data)
    from doublure.verbs.continual import continual as work

    summary = run_verb(
        work,
        model,
        data,
        out=out,
        options=options,
        strategy=strategy,
        transfer=transfer,
        train_batchnorm=train_batchnorm,
    )
    if summary and not options["json"]:
        for part in ("old", "new"):
            scored, count = summary[f"{part}_accuracy"], summary[f"{part}_count"]
            if scored is not None:
                results.print(f"{part:11}classes {scored:.1%} of {count:,}")
        if summary["forgetting"] is not None:
            results.print(
                f"{'forgotten':11}{100 * summary['forgetting']:.1f} points of old classes"
            )
