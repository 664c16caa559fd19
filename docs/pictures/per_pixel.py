"""The loss of every pixel of a map, and how little its mean depends on a stride."""

import torch
import torch.nn.functional as F
from drawing import STUDENT, picture
from torch import Tensor

from doublure.core.protocols import Outputs, image_batch
from doublure.core.seeding import from_seed
from doublure.objectives.per_pixel import PerPixel
from doublure.objectives.soft_targets import SoftTargets, soft_target_loss
from doublure.objectives.weighted import open_loss

STRIDES = (1, 2, 3, 4, 6, 8)


def smooth_maps(seed: int) -> Tensor:
    """Return logits of five classes that change slowly from pixel to pixel."""
    coarse = 3 * torch.randn(8, 5, 8, 10, generator=from_seed(seed))
    return F.interpolate(coarse, size=(96, 120), mode="bicubic")


def main() -> None:
    teacher = smooth_maps(0)
    student = teacher + 0.5 * smooth_maps(1)
    by_pixel = soft_target_loss(student.movedim(1, -1), teacher.movedim(1, -1), 1.0)
    batch = image_batch(torch.zeros(8, 3, 96, 120))
    means = []
    for stride in STRIDES:
        objective = PerPixel(objective=SoftTargets(temperature=1.0), stride=stride)
        loss = open_loss(objective, torch.nn.Identity(), None, batch, from_seed(0))
        terms = loss(Outputs(output=student), Outputs(output=teacher), batch)
        means.append(float(terms["soft_targets"]))
    with picture("per_pixel", 190, colours=64) as figure:
        shown, curve = figure.subplots(1, 2)
        shown.imshow(by_pixel[0], cmap="viridis")
        shown.set_axis_off()
        shown.set_title("KL of each pixel")
        curve.plot(STRIDES, means, "o-", color=STUDENT)
        curve.set_ylim(0, 1.3 * max(means))
        curve.set_xlabel("stride")
        curve.set_title("mean over the pixels compared")


if __name__ == "__main__":
    main()
