"""VGG with BatchNorm for small images: stages of 3 x 3 convolutions, pooling, one linear layer.

Paper: Simonyan, Zisserman: Very Deep Convolutional Networks, arXiv:1409.1556 (VGG-11 and -13 are
its configurations A and B; VGG-8, one convolution a stage, comes from the distillation literature).
Differs from the paper: BatchNorm, a single linear layer after global average pooling, and only
three poolings below 64 pixels, so that the last stage has 4 x 4 positions for a 32 x 32 image. The
convolutions keep their (redundant) biases, as the published parameter counts do.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.checks import one_of
from doublure.nets.he_normal import he_normal_

_STAGES = {
    8: ((64,), (128,), (256,), (512,), (512,)),
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
}
_SMALLEST = 8  # three poolings leave one pixel


class VGG(nn.Module):
    """VGG-8, -11 or -13; keys block{0..4}.{0,1,3,4} and classifier.

    A block ends at its last BatchNorm; its ReLU and its pooling are calls of this class.
    """

    def __init__(self, *, depth: int, classes: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        one_of("VGG depth", str(depth), map(str, _STAGES))
        if min(size) < _SMALLEST:
            raise ValueError(
                f"VGG needs images of at least {_SMALLEST} x {_SMALLEST} pixels, got "
                f"{size[0]} x {size[1]}; use a residual network or resize"
            )
        self.pools = (True, True, True, min(size) >= 64, False)
        inputs = channels
        for index, widths in enumerate(_STAGES[depth]):
            self.add_module(f"block{index}", _stage(inputs, widths))
            inputs = widths[-1]
        self.classifier = nn.Linear(inputs, classes)
        he_normal_(self)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        x = inputs
        for index, pool in enumerate(self.pools):
            x = F.relu(self.get_submodule(f"block{index}")(x))
            if pool:
                x = F.max_pool2d(x, 2)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        if layers:
            layers.append(nn.ReLU())
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width)]
        inputs = width
    return nn.Sequential(*layers)
