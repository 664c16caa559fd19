"""MobileNetV2 for small images: inverted residuals with linear bottlenecks.

A block widens its input t times by a 1 x 1 convolution, filters each channel by itself (3 x 3
depthwise), and projects back without an activation; equal shapes add a shortcut.
Paper: Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2, arXiv:1801.04381, table 2.
Differs from the paper, as the distillation literature's CIFAR version does: the second stage keeps
its resolution (an image shrinks 16 times, not 32), ReLU stands for ReLU6, widths are truncated and
not rounded to multiples of 8, the first block has its 1 x 1 convolution although t = 1, no dropout.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.checks import positive
from doublure.nets.he_normal import he_normal_

# Expansion t, channels c, repetitions n, stride s of the first (table 2).
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM = 32
_LAST = 1280  # never narrowed: the paper keeps it for width multipliers below one


class InvertedResidual(nn.Module):
    """Widen, filter, project; `conv` ends at a BatchNorm without an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.adds else out


class MobileNetV2(nn.Module):
    """Keys conv1.{0,1}, blocks.{stage}.{i}.conv.{0,1,3,4,6,7}, conv2.{0,1}, classifier.0.

    Args:
        width: multiplies every width but the last.
    """

    def __init__(self, *, width: float, classes: int, channels: int) -> None:
        super().__init__()
        positive("width", width)
        inputs = max(1, int(_STEM * width))
        self.conv1 = _conv_bn_relu(channels, inputs, kernel=3, stride=2)
        self.blocks = nn.ModuleList()
        for expansion, base, num_blocks, stride in _STAGES:
            outputs = max(1, int(base * width))
            first = InvertedResidual(inputs, outputs, stride, expansion)
            rest = (InvertedResidual(outputs, outputs, 1, expansion) for _ in range(num_blocks - 1))
            self.blocks.append(nn.Sequential(first, *rest))
            inputs = outputs
        last = max(_LAST, int(_LAST * width))
        self.conv2 = _conv_bn_relu(inputs, last, kernel=1, stride=1)
        self.classifier = nn.Sequential(nn.Linear(last, classes))
        he_normal_(self)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        x = self.conv1(inputs)
        for stage in self.blocks:
            x = stage(x)
        x = self.conv2(x)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
