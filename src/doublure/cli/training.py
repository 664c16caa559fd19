"""Commands that train: call the verb, print the result."""

import typer

from doublure.cli.commands import Options, add_command
from doublure.cli.console import print_json, progression, results
from doublure.cli.runs import require, run_verb


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    for verb in (distill, train, train_generator):
        add_command(app, verb)


def distill(options: Options, *, json: bool) -> None:
    """Distil a teacher into a student, without the teacher's data."""
    require(options, "teacher", "student")
    from doublure.verbs.distill import distill as work

    run_verb(work, options, json=json)


def train(options: Options, *, json: bool) -> None:
    """Train a network on labelled images, or on parallel text."""
    require(options, "net", "data")
    from doublure.verbs.train import train as work

    run_verb(work, options, json=json)


def train_generator(options: Options, *, json: bool) -> None:
    """Train a generator of images, from images that may be used only once."""
    require(options, "data")
    from doublure.verbs.train_generator import train_generator as work

    with progression() as shown:
        summary = work(**options, say=shown.say, watch=shown.watch)
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
    results.print(f"samples    {options['out'] / 'samples.png'}", markup=False)
