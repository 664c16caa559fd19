"""Wide residual networks: WRN-d-k has d layers and k times the channels of its thin ancestor.

Blocks are pre-activated, x + conv(relu(bn(conv(relu(bn(x)))))); where the channels change, the
activated input also feeds a 1 x 1 projection. The stages have 16k, 32k, 64k channels.
Paper: Zagoruyko, Komodakis: Wide Residual Networks, arXiv:1605.07146.
Differs from the paper: no dropout (the distillation literature trains without).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.nets.he_normal import he_normal_


class PreActivationBlock(nn.Module):
    """BN and ReLU before each of two 3 x 3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if inputs != outputs:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return residual + shortcut


class _Group(nn.Module):
    """One stage; its only purpose is the `layer` in the keys of the public checkpoints."""

    def __init__(self, inputs: int, outputs: int, num_blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            PreActivationBlock(inputs, outputs, stride),
            *(PreActivationBlock(outputs, outputs, 1) for _ in range(num_blocks - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """WRN-d-k; keys conv1, block{1,2,3}.layer.{i}.{bn1,conv1,bn2,conv2,convShortcut}, bn1, fc.

    Args:
        depth: number of layers with weights, 6n+4.
        widen: k, how many times wider than 16, 32, 64 channels.
    """

    def __init__(self, *, depth: int, widen: int, classes: int, channels: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 != 0:
            raise ValueError(f"depth must be 6n+4 (10, 16, 22, 28, 40, ...), got {depth}")
        if widen < 1:
            raise ValueError(f"widen must be at least 1, got {widen}")
        num_blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _Group(16, 16 * widen, num_blocks, stride=1)
        self.block2 = _Group(16 * widen, 32 * widen, num_blocks, stride=2)
        self.block3 = _Group(32 * widen, 64 * widen, num_blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, classes)
        he_normal_(self)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        x = self.block3(self.block2(self.block1(self.conv1(inputs))))
        x = F.relu(self.bn1(x))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits
