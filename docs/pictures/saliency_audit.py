"""One digit, three methods, six baselines: the map and its likeness to the first of its row."""

import torch
from drawing import digits_teacher, label, picture, tile

from doublure.audits.saliency import MODEL, Configuration, MapMaker, SaliencyAudit
from doublure.audits.saliency_measures import spearman
from doublure.data.digits import digits
from doublure.reports.saliency import heat

SETTINGS = SaliencyAudit(num_masks=1000)
DIGIT = 8


def main() -> None:
    maker = MapMaker(SETTINGS, {MODEL: digits_teacher()}, seed=0)
    pixels, labels = digits("test")
    place = int((labels == DIGIT).nonzero()[0])
    image = torch.as_tensor(pixels)[place].permute(2, 0, 1).float() / 255
    with picture("saliency_audit", 290, colours=64) as figure:
        axes = figure.subplots(len(SETTINGS.methods) + 1, len(SETTINGS.baselines) + 1)
        for part in axes[:, 0]:
            part.set_axis_off()
        for part, name in zip(axes[0, 1:], SETTINGS.baselines, strict=True):
            tile(part, maker.baseline(name, image, 0), title=name)
        axes[0, 0].set_axis_on()
        tile(axes[0, 0], image)
        for row, method in zip(axes[1:], SETTINGS.methods, strict=True):
            maps = [
                maker.map(image, 0, DIGIT, Configuration(method=method, baseline=name))
                for name in SETTINGS.baselines
            ]
            label(row[1], method.replace("-", "\n"))
            for part, found in zip(row[1:], maps, strict=True):
                alike = spearman(*(each.numpy().reshape(1, -1) for each in (maps[0], found)))
                colours = torch.from_numpy(heat(found.numpy())).permute(2, 0, 1).float() / 255
                tile(part, colours, below=f"{alike[0]:.2f}")


if __name__ == "__main__":
    main()
