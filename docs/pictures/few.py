"""A few digits, those that teach and those that judge, and how much so few can say."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import torch
import torch.nn.functional as F
from drawing import FAINT, STUDENT, TEACHER, digits_pair, picture, tile

from doublure.core.protocols import InputContract
from doublure.core.statistics import wilson_interval
from doublure.data.datasets import open_data
from doublure.sources.few import Few

DIGITS = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=10)
COUNTS = (5, 10, 25, 50, 100, 250)


def main() -> None:
    _, _, images, labels = digits_pair()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "few.npz"
        chosen = torch.arange(60).view(10, 6)[:, :2].flatten()  # two of each
        pixels = (images[chosen, 0] * 255).round().byte().numpy()
        numpy.savez(path, x=pixels, y=labels[chosen].numpy())
        few = Few(data=str(path))
        part, data = few.evaluation_data(DIGITS), open_data(str(path), DIGITS)
    judging = part.places.tolist()
    teaching = [place for place in range(len(data)) if place not in judging]
    with picture("few", 260, colours=64) as figure:
        rows = figure.subplot_mosaic([["teach"], ["judge"], ["below"]], height_ratios=[1, 1, 3])
        for name, places in (("teach", teaching), ("judge", judging)):
            shown = data.images(torch.tensor(places)) / 255
            tile(rows[name], torch.cat([F.pad(image, (0, 1), value=1.0) for image in shown], 2))
            rows[name].text(-1, 4, name, ha="right", va="center")
        below = rows["below"]
        for share, colour in ((0.5, STUDENT), (0.8, TEACHER)):
            ranges = [wilson_interval(round(share * count), count) for count in COUNTS]
            found = [round(share * count) / count for count in COUNTS]
            reach = [[f - r[0] for f, r in zip(found, ranges, strict=True)]]
            reach += [[r[1] - f for f, r in zip(found, ranges, strict=True)]]
            percent = [[100 * value for value in side] for side in reach]
            places = [i + (0.08 if share > 0.5 else -0.08) for i in range(len(COUNTS))]
            below.errorbar(places, [100 * f for f in found], percent, fmt="o", color=colour)
        below.set_xticks(range(len(COUNTS)), [str(count) for count in COUNTS])
        below.set_ylim(0, 100)
        below.set_title("what 50 % and 80 % right allow, in %, by how many judge")
        below.grid(axis="y", color=FAINT, linewidth=0.6)


if __name__ == "__main__":
    main()
