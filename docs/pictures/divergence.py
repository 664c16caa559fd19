"""A student with one mode, fitted in either direction to a teacher with two."""

import math

import torch
from drawing import STUDENT, TEACHER, THIRD, picture
from torch import Tensor

from doublure.objectives.divergence import Form, divergence_loss

GRID = torch.linspace(-6, 6, 241)
FORMS: dict[Form, str] = {"forward": STUDENT, "reverse": THIRD}
STARTS, STEPS = (-2.0, 0.0, 2.0), 800


def bell(mean: Tensor | float, log_sd: Tensor) -> Tensor:
    return -(((GRID - mean) / log_sd.exp()) ** 2) / 2 - log_sd


def fitted(teacher: Tensor, form: Form) -> Tensor:
    """Return the student's logits after the best of some starts."""
    found = []
    for start in STARTS:
        at = torch.tensor([start, 0.0], requires_grad=True)
        optimizer = torch.optim.Adam([at], lr=0.02)
        for _ in range(STEPS):
            optimizer.zero_grad()
            logits = bell(at[0], at[1])
            loss = divergence_loss(logits[None], teacher[None], form, 0.5, 1.0).sum()
            loss.backward()
            optimizer.step()
        found.append((loss.item(), logits.detach()))
    return min(found, key=lambda pair: pair[0])[1]


def main() -> None:
    narrow = torch.tensor(math.log(0.5))
    parts = (bell(-2.0, narrow) + math.log(0.7), bell(2.0, narrow) + math.log(0.3))
    teacher = torch.logaddexp(*parts)
    with picture("divergence", 190) as figure:
        axes = figure.subplots()
        axes.fill_between(GRID, teacher.softmax(-1), color=TEACHER, alpha=0.3, label="teacher")
        for form, colour in FORMS.items():
            axes.plot(GRID, fitted(teacher, form).softmax(-1), color=colour, label=form)
        axes.set_yticks([])
        axes.set_xlabel("classes, in a row")
        axes.legend(loc="upper right")


if __name__ == "__main__":
    main()
