"""How far running means move while a network is fine-tuned on noise."""

import copy

from drawing import FAINT, STUDENT, TEACHER, context, digits_teacher, picture
from torch import nn

from doublure.core.seeding import from_seed
from doublure.engine.distill import distill
from doublure.engine.fit import FitSettings
from doublure.objectives.soft_targets import SoftTargets
from doublure.rules.frozen_batchnorm import FrozenBatchNorm
from doublure.sources.noise import Noise

SETTINGS = FitSettings(steps=60, batch_size=32, learning_rate=0.01, gradient_clip=1.0, log_every=3)


def moved(student: nn.Module, teacher: nn.Module) -> float:
    """Return the largest distance of a running mean, in standard deviations of its channel."""
    distances = []
    for one, two in zip(student.modules(), teacher.modules(), strict=True):
        if isinstance(two, nn.BatchNorm2d):
            apart = (one.running_mean - two.running_mean) / two.running_var.sqrt()
            distances.append(float(apart.abs().mean()))
    return max(distances)


def main() -> None:
    teacher = digits_teacher()
    with picture("frozen_batch_norm", 190) as figure:
        axes = figure.subplots()
        arms = {"frozen": ((FrozenBatchNorm(),), STUDENT), "moving": ((), TEACHER)}
        for name, (rules, colour) in arms.items():
            student = copy.deepcopy(teacher)
            for parameter in student.parameters():
                parameter.requires_grad_()
            curve = [(0, 0.0)]
            distill(
                student,
                teacher,
                Noise(),
                SoftTargets(),
                settings=SETTINGS,
                context=context(teacher.contract, 32, steps=60),
                rng=from_seed(0),
                rules=rules,
                logger=lambda line: curve.append((line["step"], moved(student, teacher))),  # noqa: B023
            )
            axes.plot(*zip(*curve, strict=True), color=colour, label=name)
        axes.set_xlabel("steps on noise")
        axes.set_ylabel("shift of means")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(loc="center right")


if __name__ == "__main__":
    main()
