"""The loss of one neuron on either side, and how many agree while a student is initialised."""

from collections.abc import Mapping
from typing import Any

import torch
from drawing import INK, STUDENT, TEACHER, THIRD, context, digits_teacher, picture

from doublure.core.seeding import child, from_seed
from doublure.engine.distill import open_distillation
from doublure.engine.fit import FitSettings, fit
from doublure.nets.features import FeatureRecorder
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.activation_boundaries import (
    ActivationBoundaries,
    balanced_agreement,
    boundary_loss,
)
from doublure.sources.surrogate import Surrogate

STEPS, EVERY = 200, 20


def main() -> None:
    teacher = digits_teacher()
    student = load(NetworkRef(ref="builtin/convnet-6"), like=teacher.contract, rng=from_seed(1))
    settings = FitSettings(steps=STEPS, batch_size=64, log_every=EVERY)
    stream, loss_fn = open_distillation(
        student,
        teacher,
        Surrogate(data="builtin/digits"),
        ActivationBoundaries(),
        settings=settings,
        context=context(teacher.contract, 64, steps=STEPS),
        rng=from_seed(0),
    )
    judge = Surrogate(data="builtin/digits").open(
        context(teacher.contract, 64, split="held_out"), teacher, child(from_seed(0), "judge")
    )
    images = judge.draw(0, None).images
    curves: list[list[float]] = []
    steps: list[int] = []

    def look(line: Mapping[str, Any]) -> None:
        with (
            torch.no_grad(),
            FeatureRecorder(student, loss_fn.features.student) as ours,
            FeatureRecorder(teacher, loss_fn.features.teacher) as theirs,
        ):
            mine, taught = ours.record(images).features, theirs.record(images).features
            pairs = zip(loss_fn.features.student, loss_fn.features.teacher, strict=True)
            curves.append(
                [
                    balanced_agreement(connector(mine[a]), taught[b]).item()
                    for connector, (a, b) in zip(loss_fn.adapters, pairs, strict=True)
                ]
            )
        steps.append(line.get("step", 0))

    look({})
    fit(student, stream, loss_fn, settings=settings, rng=from_seed(0), logger=look)
    with picture("activation_boundaries", 190) as figure:
        left, right = figure.subplots(1, 2)
        values = torch.linspace(-2.5, 2.5, 101)[None]
        for side, name, colour in (
            (1.0, "teacher active", TEACHER),
            (-1.0, "teacher inactive", STUDENT),
        ):
            loss = boundary_loss(values, torch.full_like(values, side), 1.0)
            left.plot(values[0], loss[0], color=colour, label=name)
        left.set_title("loss of one neuron")
        left.legend(loc="upper center")
        colours = (STUDENT, THIRD, INK)
        for i, colour in enumerate(colours[: len(curves[0])]):
            share = [100 * curve[i] for curve in curves]
            right.plot(steps, share, color=colour, label=f"stage {i + 1}")
        right.set_title("agreement, % (50 is chance)")
        right.set_xlabel("steps")
        right.legend(loc="lower right")


if __name__ == "__main__":
    main()
