"""Residual networks of basic blocks: relu(F(x) + shortcut(x)), F = conv-bn-relu-conv-bn.

`CifarResNet` is the 6n+2-layer network of the paper's CIFAR section: three stages of n blocks with
16, 32, 64 channels and parameter-free shortcuts (option A: every second pixel, new channels zero).
`ResNet` is the network of its ImageNet section with projection shortcuts (option B) and a 3 x 3
stem without pooling, as usual for small images; with narrower stages it is also the "8x4" family of
the distillation literature. Paper: He, Zhang, Ren, Sun: Deep Residual Learning for Image
Recognition, arXiv:1512.03385.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.checks import positive
from doublure.nets.he_normal import he_normal_


class ZeroPadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, with zero channels added evenly before and after.

    The sides of the zeros follow the public checkpoints; the paper does not specify them.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        pixels = x[:, :, :: self.stride, :: self.stride]
        return F.pad(pixels, (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; `downsample` is None for the identity.

    The input of the last call of `relu` is the block's output before its activation.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        hidden = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(hidden)) + shortcut)
        return out


class CifarResNet(nn.Module):
    """The 6n+2-layer network; keys conv1, bn1, layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear.

    Args:
        depth: number of layers with weights, 6n+2.
        width: multiplies the channels 16, 32, 64.
    """

    def __init__(self, *, depth: int, width: float, classes: int, channels: int) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6 != 0:
            raise ValueError(f"depth must be 6n+2 (8, 14, 20, ...), got {depth}")
        positive("width", width)
        first, second, third = (max(1, round(base * width)) for base in (16, 32, 64))
        num_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _zero_padded_stage(first, first, num_blocks, stride=1)
        self.layer2 = _zero_padded_stage(first, second, num_blocks, stride=2)
        self.layer3 = _zero_padded_stage(second, third, num_blocks, stride=2)
        self.linear = nn.Linear(third, classes)
        he_normal_(self)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        x = F.relu(self.bn1(self.conv1(inputs)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class ResNet(nn.Module):
    """Projection shortcuts, 3 x 3 stem; keys conv1, bn1, layer{s}.{i}.*, downsample.{0,1}, fc.

    Args:
        blocks: number of blocks of each stage; every stage but the first halves the image.
        widths: channels of the stem, then of each stage.
    """

    def __init__(
        self, *, blocks: Sequence[int], widths: Sequence[int], classes: int, channels: int
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks) + 1:
            raise ValueError(
                f"widths must name the stem and {len(blocks)} stages, got {len(widths)} numbers"
            )
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.num_stages = len(blocks)
        for stage, num_blocks in enumerate(blocks):
            layer = _projected_stage(
                widths[stage], widths[stage + 1], num_blocks, stride=1 if stage == 0 else 2
            )
            self.add_module(f"layer{stage + 1}", layer)
        self.fc = nn.Linear(widths[-1], classes)
        he_normal_(self)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        x = F.relu(self.bn1(self.conv1(inputs)))
        for stage in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _zero_padded_stage(inputs: int, outputs: int, num_blocks: int, stride: int) -> nn.Sequential:
    same = inputs == outputs and stride == 1
    first = None if same else ZeroPadShortcut(inputs, outputs, stride)
    rest = (BasicBlock(outputs, outputs, 1, None) for _ in range(num_blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, first), *rest)


def _projected_stage(inputs: int, outputs: int, num_blocks: int, stride: int) -> nn.Sequential:
    first: nn.Module | None = None
    if inputs != outputs or stride != 1:
        first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
    rest = (BasicBlock(outputs, outputs, 1, None) for _ in range(num_blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, first), *rest)
