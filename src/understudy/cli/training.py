"""The verbs that train: parse, call, print."""

from pathlib import Path
from typing import Any

import typer

from understudy.cli import options as o
from understudy.cli.console import print_json, progression, results


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    app.command()(distill)
    app.command()(train)
    app.command()(train_generator)


def distill(
    out: o.Out,
    teacher: o.Teacher = None,
    student: o.Student = None,
    method: o.Method = None,
    transfer: o.Transfer = None,
    objective: o.Objective = [],  # noqa: B006  # typer reads it, nothing writes it
    without: o.Without = [],  # noqa: B006
    labels: o.Labels = False,
    student_classes: o.StudentClasses = None,
    augment: o.Augment = None,
    eval: o.Eval = None,
    weights: o.Weights = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    skip_bad: o.SkipBad = False,
    steps: o.Steps = None,
    budget: o.Budget = None,
    batch_size: o.BatchSize = None,
    lr: o.Lr = None,
    seed: o.Seed = None,
    device: o.Device = None,
    precision: o.Precision = None,
    set_: o.Set = [],  # noqa: B006
    recipe: o.RecipeFile = None,
    init_from: o.InitFrom = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    allow_code: o.AllowCode = [],  # noqa: B006
    tensorboard: o.TensorBoard = False,
    json: o.Json = False,
) -> None:
    """The main job: make a student do what its teacher does, without the teacher's data."""
    exclusive(steps=steps, budget=budget)
    needed(recipe, teacher=teacher, student=student)
    from understudy.verbs.distill import distill as work

    with progression() as shown:
        summary = work(
            teacher,
            student,
            out=out,
            method=method,
            transfer=transfer,
            objective=objective,
            without=without,
            labels=labels,
            student_classes=student_classes,
            augment=augment,
            eval=eval,
            weights=weights,
            mean=mean,
            std=std,
            size=size,
            classes=classes,
            skip_bad=skip_bad,
            recipe=recipe,
            init_from=init_from,
            steps=steps,
            budget=budget,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            device=device,
            precision=precision,
            set=dict(set_),
            resume=resume,
            overwrite=overwrite,
            allow_code=allow_code,
            tensorboard=tensorboard,
            say=shown.say,
            watch=shown.watch,
        )
    tell(summary, out, json=json)


def train(
    out: o.Out,
    net: o.Net = None,
    data: o.Data = None,
    augment: o.Augment = None,
    eval: o.Eval = None,
    mean: o.Mean = None,
    std: o.Std = None,
    size: o.Size = None,
    classes: o.Classes = None,
    steps: o.Steps = None,
    budget: o.Budget = None,
    batch_size: o.BatchSize = None,
    lr: o.Lr = None,
    seed: o.Seed = None,
    device: o.Device = None,
    precision: o.Precision = None,
    set_: o.Set = [],  # noqa: B006  # typer reads it, nothing writes it
    recipe: o.RecipeFile = None,
    init_from: o.InitFrom = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    allow_code: o.AllowCode = [],  # noqa: B006
    tensorboard: o.TensorBoard = False,
    json: o.Json = False,
) -> None:
    """Train a network on labelled images, or on parallel text."""
    exclusive(steps=steps, budget=budget)
    needed(recipe, net=net, data=data)
    from understudy.verbs.train import train as work

    with progression() as shown:
        summary = work(
            net,
            data,
            out=out,
            augment=augment or "mild",
            eval=eval,
            mean=mean,
            std=std,
            size=size,
            classes=classes,
            recipe=recipe,
            init_from=init_from,
            steps=steps,
            budget=budget,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            device=device,
            precision=precision,
            set=dict(set_),
            resume=resume,
            overwrite=overwrite,
            allow_code=allow_code,
            tensorboard=tensorboard,
            say=shown.say,
            watch=shown.watch,
        )
    tell(summary, out, json=json)


def train_generator(
    method: o.Generator,
    out: o.Out,
    data: o.Images = None,
    size: o.Size = None,
    channels: o.Channels = None,
    skip_bad: o.SkipBad = False,
    steps: o.StageSteps = None,
    budget: o.Budget = None,
    batch_size: o.StageBatchSize = None,
    lr: o.Lr = None,
    seed: o.Seed = None,
    device: o.Device = None,
    set_: o.Set = [],  # noqa: B006  # typer reads it, nothing writes it
    recipe: o.RecipeFile = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    tensorboard: o.TensorBoard = False,
    json: o.Json = False,
) -> None:
    """Train a generator of images, from images that may be used once."""
    exclusive(steps=steps, budget=budget)
    needed(recipe, data=data)
    from understudy.verbs.train_generator import train_generator as work

    with progression() as shown:
        summary = work(
            method,
            data,
            out=out,
            size=size,
            channels=channels,
            skip_bad=skip_bad,
            recipe=recipe,
            steps=steps,
            budget=budget,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            device=device,
            set=dict(set_),
            resume=resume,
            overwrite=overwrite,
            tensorboard=tensorboard,
            say=shown.say,
            watch=shown.watch,
        )
    if json:
        print_json(summary)
        return
    apart = summary["distances"]["codes"]
    results.print(
        f"codes      {apart['generated']:.4f} from held-out ones; training images' "
        f"{apart['training']:.4f}, normal ones {apart['normal']:.4f}"
    )
    results.print(f"nearness   {summary['nearness']:.2f} of that of images not learned from")
    results.print(f"steps      {summary['steps']:,} in {summary['seconds']:.0f} s")
    results.print(f"samples    {out / 'samples.png'}", markup=False)


def exclusive(**options: Any) -> None:
    """Refuse more than one of these options."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other; choose one")


def needed(recipe: Path | None, **options: Any) -> None:
    """Refuse a recipe beside these options, and neither of the two."""
    missing = [f"--{name}" for name, value in options.items() if value is None]
    if recipe is None and missing:
        raise typer.BadParameter(f"missing {' and '.join(missing)}, or --recipe FILE")
    if recipe is not None and len(missing) < len(options):
        raise typer.BadParameter("--recipe says the networks and the data; leave them away")


def tell(summary: dict[str, Any], out: Path, *, json: bool) -> None:
    """Print what came of a run."""
    if not summary:  # of several processes the first one speaks
        return
    if json:
        print_json(summary)
        return
    for role in ("teacher", "student"):
        accuracy, parameters = summary[f"{role}_accuracy"], summary[f"{role}_parameters"]
        if parameters is not None:
            scored = "accuracy not measured" if accuracy is None else f"accuracy {accuracy:.1%}"
            if "score_count" in summary:  # a task that is not scored by accuracy
                scores = summary[f"{role}_scores"] or {}
                told = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in scores.items()]
                scored = ", ".join(told) or "not scored"
            name = summary[f"{role}_reference"]
            results.print(f"{role:11}{name}  {parameters:,} numbers, {scored}", markup=False)
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
    unit = "sentences" if "score_count" in summary else "images"
    results.print(
        f"steps      {summary['steps']:,} in {summary['seconds']:.0f} s "
        f"({summary['images_per_second']:,.0f} {unit}/s)"
    )
    results.print(f"report     {out / 'report.html'}", markup=False)
