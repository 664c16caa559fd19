"""Padding in batches of like length, and in batches drawn without regard to it."""

import tempfile
from pathlib import Path

import torch
from drawing import STUDENT, picture
from matplotlib.colors import ListedColormap

from doublure.core.protocols import StreamContext
from doublure.core.seeding import from_seed
from doublure.tasks.translation.contract import PAD
from doublure.tasks.translation.parallel_text import contract_of, open_text, padded
from doublure.tasks.translation.sentences import Sentences

WORDS = ("a", "dog", "runs", "over", "the", "grass", "with", "its", "red", "ball")
ROWS, COUNT = 24, 1200


def main() -> None:
    rng = from_seed(0)
    lines = [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (int(length),), generator=rng))
        for length in torch.randint(3, 24, (COUNT,), generator=rng)
    ]
    with tempfile.TemporaryDirectory() as folder:
        for language in ("de", "en"):
            (Path(folder) / f"train.{language}").write_text("\n".join(lines) + "\n")
        contract = contract_of(open_text(f"{folder}:de-en"), 200)
        context = StreamContext(
            contract=contract, device=torch.device("cpu"), batch_size=ROWS, steps=9
        )
        stream = Sentences(data=folder).open(context, None, from_seed(1))
        alike = [stream.draw(step, None).labels for step in range(3)]
        rows = [row[row != PAD].tolist() for batch in alike for row in batch]
        order = torch.randperm(len(rows), generator=rng).tolist()
        mixed = padded([rows[place] for place in order[:ROWS]])
    shown = {"batches by length": torch.nn.functional.pad(alike[0], (0, 0)), "as they come": mixed}
    widest = max(tokens.shape[1] for tokens in shown.values())
    with picture("sentences", 190) as figure:
        for axes, (name, tokens) in zip(figure.subplots(1, 2), shown.items(), strict=True):
            used = (tokens != PAD).float()
            axes.imshow(used, cmap=ListedColormap(["#76808c44", STUDENT]), vmin=0, vmax=1)
            axes.set_title(f"{name}: {1 - used.mean():.0%} padding")
            axes.set_xlim(-0.5, widest - 0.5)
            axes.set_aspect("auto")
            axes.set_yticks([])
            axes.set_xlabel("tokens")


if __name__ == "__main__":
    main()
