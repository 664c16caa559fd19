"""ShuffleNetV2 (1x) for small images: split the channels, work on one half, shuffle.

Paper: Ma, Zhang, Zheng, Sun: ShuffleNet V2, arXiv:1807.11164, table 5.
Differs from the paper, as the distillation literature's CIFAR version does: a 1 x 1 stem of stride
1 without pooling (an image shrinks 8 times, not 32).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.nets.he_normal import he_normal_

_STEM = 24
_STAGES = ((116, 4), (232, 8), (464, 4))  # channels and units, table 5, 1x
_LAST = 1024


def shuffle_channels(x: Tensor) -> Tensor:
    """Return `x` with the channels of its two halves interleaved."""
    batch, channels, height, width = x.shape
    halves = x.reshape(batch, 2, channels // 2, height, width)
    return halves.transpose(1, 2).flatten(1, 2)


class BasicUnit(nn.Module):
    """Keeps one half of the channels and transforms the other (figure 3c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, x = x.chunk(2, dim=1)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x = F.relu(self.bn3(self.conv3(x)))
        return shuffle_channels(torch.cat((kept, x), dim=1))


class DownUnit(nn.Module):
    """Halves the image in two branches over all channels (figure 3d)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 2, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))))
        return shuffle_channels(torch.cat((left, right), dim=1))


class ShuffleNetV2(nn.Module):
    """Keys conv1, bn1, layer{1,2,3}.{i}.{conv,bn}{1..5}, conv2, bn2, linear."""

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        inputs = _STEM
        for index, (outputs, num_units) in enumerate(_STAGES):
            rest = (BasicUnit(outputs) for _ in range(num_units - 1))
            self.add_module(f"layer{index + 1}", nn.Sequential(DownUnit(inputs, outputs), *rest))
            inputs = outputs
        self.conv2 = nn.Conv2d(inputs, _LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_LAST)
        self.linear = nn.Linear(_LAST, classes)
        he_normal_(self)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        x = F.relu(self.bn1(self.conv1(inputs)))
        for index in range(len(_STAGES)):
            x = self.get_submodule(f"layer{index + 1}")(x)
        x = F.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits
