"""Sentences sampled from the student come as often as the student, not the teacher, says them."""

import torch
from drawing import INK, STUDENT, TEACHER, picture
from toy_sentences import CONTRACT, SOURCE, probabilities, sentences, spelled, translator

from doublure.core.seeding import from_seed
from doublure.tasks.translation.decoding import translate

SAMPLES, SHOWN = 2000, 12


def main() -> None:
    teacher, student = translator(15), translator(11)
    every = sentences()
    says, said = probabilities(student, every), probabilities(teacher, every)
    drawn = translate(student, SOURCE.expand(SAMPLES, -1), CONTRACT.longest, rng=from_seed(0))
    drawn = torch.nn.functional.pad(drawn, (0, every.shape[1] - drawn.shape[1]))
    share = (drawn[:, None] == every[None]).all(-1).double().mean(0)
    order = (says + said).argsort(descending=True)[:SHOWN]
    places = torch.arange(SHOWN)
    with picture("on_policy", 200) as figure:
        axes = figure.subplots()
        axes.bar(places - 0.2, said[order], 0.4, color=TEACHER, label="teacher says")
        axes.bar(places + 0.2, says[order], 0.4, color=STUDENT, label="student says")
        axes.plot(places + 0.2, share[order], "o", ms=4, color=INK, label=f"of {SAMPLES} samples")
        axes.set_xticks(places, [spelled(every[place]) for place in order])
        axes.set_ylabel("probability")
        axes.legend()


if __name__ == "__main__":
    main()
