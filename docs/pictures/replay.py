"""How old the images are that a step shows, and how many there are."""

import torch
from drawing import FAINT, STUDENT, TEACHER, context, picture

from doublure.core.protocols import InputContract
from doublure.core.seeding import from_seed
from doublure.sources.noise import Noise
from doublure.sources.replay import Replay

SMALL = InputContract(size=(2, 2), channels=1, mean=(0.5,), std=(0.25,), classes=2)
STEPS, BATCH = 500, 64


def main() -> None:
    stream = Replay(source=Noise()).open(context(SMALL, BATCH, steps=STEPS), None, from_seed(0))
    pool, fresh = [], []
    known = torch.empty(0, SMALL.channels, *SMALL.size)
    for step in range(STEPS):
        batch = stream.draw(step, None)
        seen = (batch.images[:, None] == known[None]).flatten(2).all(-1).any(1)
        known = torch.cat([known, batch.images[~seen]])
        pool.append(batch.metrics["pool_images"].item())
        fresh.append(100 * (~seen).float().mean().item())
    with picture("replay", 200) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        above.step(range(STEPS), pool, where="post", color=TEACHER)
        above.set_title("images in the pool")
        below.plot(range(STEPS), fresh, color=STUDENT, linewidth=1)
        below.set_title("never shown before, % of a batch")
        below.set_xlabel("step")
        for axes in (above, below):
            axes.grid(axis="y", color=FAINT, linewidth=0.6)


if __name__ == "__main__":
    main()
