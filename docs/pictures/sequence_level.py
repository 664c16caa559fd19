"""Every sentence a small teacher can say, and the ones that its searches find."""

import torch
from drawing import FAINT, STUDENT, TEACHER, THIRD, picture
from toy_sentences import CONTRACT, SOURCE, probabilities, sentences, spelled, translator

from doublure.tasks.translation.decoding import beam_search, translate

SHOWN = 14


def main() -> None:
    teacher, every = translator(15), sentences()
    said = probabilities(teacher, every)
    order = said.argsort(descending=True)[:SHOWN]
    found = {
        "greedy": translate(teacher, SOURCE, CONTRACT.longest),
        "beam of 5": beam_search(teacher, SOURCE, CONTRACT.longest, 5),
    }
    colours = {"greedy": STUDENT, "beam of 5": THIRD}
    with picture("sequence_level", 200) as figure:
        axes = figure.subplots()
        axes.bar(range(SHOWN), said[order], color=TEACHER, alpha=0.5, label="teacher says")
        for name, tokens in found.items():
            row = torch.nn.functional.pad(tokens, (0, every.shape[1] - tokens.shape[1]))
            place = int((every == row).all(1).nonzero()[0])
            height = float(said[place])
            at = int((order == place).nonzero()[0])
            offset = 0.03 * (1 + list(found).index(name))
            axes.plot([at], [height + offset], "v", color=colours[name], label=name)
        axes.axhline(0, color=FAINT)
        axes.set_xticks(range(SHOWN), [spelled(every[place]) for place in order], rotation=30)
        axes.set_ylabel("probability")
        axes.legend()


if __name__ == "__main__":
    main()
