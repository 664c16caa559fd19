"""The verbs that train: parse, call, print."""

from typing import Any

import typer

from doublure.cli import options as o
from doublure.cli.console import print_json, progression, results
from doublure.cli.runs import DISTILL, TRAIN, needed, run_verb, sharing


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    app.command()(distill)
    app.command()(train)
    app.command()(train_generator)


@sharing(DISTILL)
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
    from_scratch: o.FromScratch = False,
    **options: Any,
) -> None:
    """The main job: make a student do what its teacher does, without the teacher's data."""
    needed(options, teacher=teacher, student=student)
    from doublure.verbs.distill import distill as work

    run_verb(
        work,
        teacher,
        student,
        out=out,
        options=options,
        method=method,
        transfer=transfer,
        objective=objective,
        without=without,
        labels=labels,
        student_classes=student_classes,
        augment=augment,
        from_scratch=from_scratch,
    )


@sharing(TRAIN)
def train(
    out: o.Out,
    net: o.Net = None,
    data: o.Data = None,
    augment: o.Augment = None,
    **options: Any,
) -> None:
    """Train a network on labelled images, or on parallel text."""
    needed(options, net=net, data=data)
    from doublure.verbs.train import train as work

    run_verb(work, net, data, out=out, options=options, augment=augment)


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
    needed({"steps": steps, "budget": budget, "recipe": recipe}, data=data)
    from doublure.verbs.train_generator import train_generator as work

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
