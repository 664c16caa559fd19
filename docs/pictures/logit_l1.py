"""How much of a gradient three objectives leave as the student comes closer to its teacher."""

import torch
from drawing import STUDENT, TEACHER, THIRD, picture
from torch import Tensor

from doublure.core.seeding import from_seed
from doublure.objectives.logit_l1 import logit_l1_loss
from doublure.objectives.soft_targets import soft_target_loss

GAPS = torch.logspace(0, -3, 13).tolist()


def norm(loss: Tensor, student: Tensor) -> float:
    return float(torch.autograd.grad(loss, student)[0].norm())


def main() -> None:
    rng = from_seed(0)
    teacher = 2 * torch.randn(256, 10, generator=rng)
    direction = torch.randn(256, 10, generator=rng)
    curves: dict[str, list[float]] = {"logit L1": [], "soft targets, T = 1": [], "squared": []}
    for gap in GAPS:
        student = (teacher + gap * direction).requires_grad_()
        losses = (
            logit_l1_loss(student, teacher).mean(),
            soft_target_loss(student, teacher, 1.0).mean(),
            (student - teacher).square().mean(),
        )
        for curve, loss in zip(curves.values(), losses, strict=True):
            curve.append(norm(loss, student))
    with picture("logit_l1", 210) as figure:
        axes = figure.subplots()
        for (name, curve), colour in zip(curves.items(), (STUDENT, TEACHER, THIRD), strict=True):
            axes.loglog(GAPS, curve, color=colour, linewidth=2, label=name)
        axes.invert_xaxis()
        axes.set_xlabel("distance between the logits, falling")
        axes.set_ylabel("norm of the gradient")
        axes.legend()


if __name__ == "__main__":
    main()
