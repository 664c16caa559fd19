"""A student too simple for its teacher, taught in four ways; every sentence is counted exactly.

The teacher looks at two letters before each, the student at one.
"""

import itertools

import torch
from drawing import INK, STUDENT, TEACHER, THIRD, picture
from torch import Tensor

from doublure.core.seeding import from_seed
from doublure.objectives.divergence import divergence_loss

LETTERS, LENGTH, STEPS = 4, 5, 500
SENTENCES = torch.tensor(list(itertools.product(range(LETTERS), repeat=LENGTH)))
# What stands before each letter; the beginning is a letter of its own.
BEFORE = torch.nn.functional.pad(SENTENCES[:, :-1], (1, 0), value=LETTERS)
EARLIER = torch.nn.functional.pad(SENTENCES[:, :-2], (2, 0), value=LETTERS)


def log_of(logits: Tensor) -> Tensor:
    log = logits.log_softmax(-1).gather(-1, SENTENCES[..., None])[..., 0]
    return log.sum(1)


def tokens(form: str, student: Tensor, teacher: Tensor) -> Tensor:
    loss = divergence_loss(student.flatten(0, 1), teacher.flatten(0, 1), form, 0.5, 1.0)
    return loss.view(SENTENCES.shape).sum(1)


def taught(way: str, teacher: Tensor) -> Tensor:
    """Return the student's logits behind every prefix, taught in one way."""
    table = (0.1 * torch.randn(LETTERS + 1, LETTERS, generator=from_seed(1))).requires_grad_()
    optimizer = torch.optim.Adam([table], lr=0.05)
    log_p = log_of(teacher)
    for _ in range(STEPS):
        student = table[BEFORE]
        log_q = log_of(student)
        if way == "teacher's best sentence":
            loss = -log_q[log_p.argmax()]
        elif way == "forward, its sentences":
            loss = (log_p.exp() * tokens("forward", student, teacher)).sum()
        elif way == "reverse, own sentences":
            loss = (log_q.exp().detach() * tokens("reverse", student, teacher)).sum()
        else:  # the same with the return to go: the divergence of whole sentences
            loss = (log_q.exp() * (log_q - log_p)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return table.detach()[BEFORE]


def main() -> None:
    table = 2 * torch.randn(LETTERS + 1, LETTERS + 1, LETTERS, generator=from_seed(0))
    teacher = table[EARLIER, BEFORE]
    log_p = log_of(teacher)
    ways = {
        "forward, its sentences": STUDENT,
        "reverse, own sentences": THIRD,
        "the same with return to go": "#8a63d2",
        "teacher's best sentence": INK,
    }
    entropy = -(log_p.exp() * log_p).sum()
    with picture("sequence_kd", 230) as figure:
        axes = figure.subplots()
        axes.plot([entropy], [-entropy], "*", ms=11, color=TEACHER, label="teacher")
        for way, colour in ways.items():
            log_q = log_of(taught(way, teacher))
            q = log_q.exp()
            axes.plot([-(q * log_q).sum()], [(q * log_p).sum()], "o", color=colour, label=way)
        axes.set_xlabel("diversity: entropy of its sentences, nats")
        axes.set_ylabel("quality: mean log p, nats")
        axes.grid(linewidth=0.5)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    main()
