"""What the verbs that train share: options declared once, a call with progress shown, a result."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import typer

from doublure.cli import options as o
from doublure.cli.console import print_json, progression, results


class Option(NamedTuple):
    """An option of a command, as a parameter of its function would declare it."""

    annotation: Any
    default: Any = None


_INPUT = {
    "mean": Option(o.Mean),
    "std": Option(o.Std),
    "size": Option(o.Size),
    "classes": Option(o.Classes),
}
_TRAINING = {
    "steps": Option(o.Steps),
    "budget": Option(o.Budget),
    "batch_size": Option(o.BatchSize),
    "lr": Option(o.Lr),
    "seed": Option(o.Seed),
    "device": Option(o.Device),
    "precision": Option(o.Precision),
}
_RUN = {
    "set": Option(o.Set, []),
    "recipe": Option(o.RecipeFile),
    "resume": Option(o.Resume, False),
    "overwrite": Option(o.Overwrite, False),
    "allow_code": Option(o.AllowCode, []),
    "tensorboard": Option(o.TensorBoard, False),
    "json": Option(o.Json, False),
}
_BEGUN = {"init_from": Option(o.InitFrom)}
# Beside what is a verb's own: of those in which a network teaches, and of those that begin afresh.
TEACH = {
    "eval": Option(o.Eval),
    "weights": Option(o.Weights),
    **_INPUT,
    "skip_bad": Option(o.SkipBad, False),
    **_TRAINING,
    **_RUN,
}
DISTILL = TEACH | _BEGUN
TRAIN = {
    "eval": Option(o.Eval),
    **_INPUT,
    "skip_bad": Option(o.SkipBad, False),
    **_TRAINING,
    **_RUN,
    **_BEGUN,
}

Command = Callable[..., None]


def sharing(options: Mapping[str, Option]) -> Callable[[Command], Command]:
    """Give a command further options, which it takes as `**options`."""

    def share(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
            )
            for name, (hint, default) in options.items()
        ]

        @functools.wraps(command)
        def shares(**given: Any) -> None:
            command(**given)

        # This is what typer reads.
        made: Any = shares
        made.__signature__ = signature.replace(parameters=[*own, *shared])
        made.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
        return shares

    return share


def run_verb(
    verb: Callable[..., dict[str, Any]], *named: Any, out: Path, options: dict[str, Any], **own: Any
) -> dict[str, Any]:
    """Call a verb with its progress shown, tell what came of it, and return its summary."""
    asked = {name: value for name, value in options.items() if name != "json"}
    asked["set"] = dict(asked["set"])
    with progression() as shown:
        summary = verb(*named, out=out, **own, **asked, say=shown.say, watch=shown.watch)
    tell(summary, out, json=options["json"])
    return summary


def exclusive(**options: Any) -> None:
    """Refuse more than one of these options."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other; choose one")


def needed(options: Mapping[str, Any], **named: Any) -> None:
    """Refuse steps beside a budget, a recipe beside what it says, and neither of the two."""
    exclusive(steps=options["steps"], budget=options["budget"])
    missing = [f"--{name}" for name, value in named.items() if value is None]
    if options["recipe"] is None and missing:
        raise typer.BadParameter(f"missing {' and '.join(missing)}, or --recipe FILE")
    if options["recipe"] is not None and len(missing) < len(named):
        raise typer.BadParameter("--recipe says the networks and the data; leave them away")


def tell(summary: dict[str, Any], out: Path, *, json: bool) -> None:
    """Print what came of a run."""
    if not summary:  # of several processes the first one speaks
        return
    if json:
        print_json(summary)
        return
    from doublure.tasks import TASKS

    task = next(task for task in TASKS if task.name == summary["task"])
    for role in ("teacher", "student"):
        parameters = summary[f"{role}_parameters"]
        if parameters is not None:
            scored = task.lines(summary, role)
            name = summary[f"{role}_reference"]
            results.print(f"{role:11}{name}  {parameters:,} parameters, {scored}", markup=False)
    if summary["agreement"] is not None:
        results.print(
            f"agreement  {summary['agreement']:.1%} on {summary['agreement_count']:,} "
            f"{summary['agreement_on']}"
        )
    if summary.get("student_latency_ms"):
        alone = summary["teacher_latency_ms"] / summary["student_latency_ms"]
        together = summary["student_answers_per_second"] / summary["teacher_answers_per_second"]
        results.print(
            f"speed      {alone:.2f} times the teacher's on one image, {together:.2f} times in "
            "batches, on this CPU"
        )
    for warning in summary["warnings"]:
        results.print(f"warning    {warning}", markup=False)
    results.print(
        f"steps      {summary['steps']:,} in {summary['seconds']:.0f} s "
        f"({summary['images_per_second']:,.0f} {task.words.shown}/s)"
    )
    results.print(f"report     {out / 'report.html'}", markup=False)
