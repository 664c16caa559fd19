"""A small residual U-Net for scenes: scene-unet-{width}.

    stem      3x3, stride 2, to w channels
    encoder   residual blocks of w, 2w, 4w, 8w channels, the last three of stride 2
    decoder   the map enlarged to the next larger one, both side by side, a residual block; to w
    head      1x1 to the classes, enlarged to the image's size

A U-Net (Ronneberger, Fischer, Brox, arXiv:1505.04597) whose pairs of convolutions are residual
blocks (He et al., arXiv:1512.03385) with BatchNorm, padded, at half of the paper's resolution.
Images of any size are taken.
"""

import re

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.nets.he_normal import he_normal_

_NAME = r"scene-unet-(\d+)"


class ResidualBlock(nn.Module):
    """relu(x' + f(x)): f two 3x3 convolutions with BatchNorm, x' projected where shapes differ."""

    def __init__(self, channels: int, made: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, made, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(made)
        self.conv2 = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(made)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != made:
            # Averaged before it is projected (ResNet-D, arXiv:1812.01187): no pixel goes unseen.
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
                if stride > 1
                else nn.Identity(),
                nn.Conv2d(channels, made, 1, bias=False),
                nn.BatchNorm2d(made),
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(inner)))


class SceneUNet(nn.Module):
    """Logits of every class at every pixel.

    Args:
        width: channels at half of the image's size.
    """

    def __init__(self, *, width: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 8 * width)
        self.stem = nn.Conv2d(channels, width, 3, 2, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.encoder1 = ResidualBlock(widths[0], widths[0])
        self.encoder2 = ResidualBlock(widths[0], widths[1], 2)
        self.encoder3 = ResidualBlock(widths[1], widths[2], 2)
        self.encoder4 = ResidualBlock(widths[2], widths[3], 2)
        self.decoder3 = ResidualBlock(widths[3] + widths[2], widths[2])
        self.decoder2 = ResidualBlock(widths[2] + widths[1], widths[1])
        self.decoder1 = ResidualBlock(widths[1] + widths[0], widths[0])
        self.head = nn.Conv2d(width, classes, 1)
        he_normal_(self)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes height width"]:
        x1 = self.encoder1(F.relu(self.stem_bn(self.stem(images))))
        x2 = self.encoder2(x1)
        x3 = self.encoder3(x2)
        y = self.decoder3(_joined(self.encoder4(x3), x3))
        y = self.decoder2(_joined(y, x2))
        y = self.decoder1(_joined(y, x1))
        return _enlarged(self.head(y), images)


def is_scene_unet(name: str) -> bool:
    """Return whether a built-in network is one of these."""
    return re.fullmatch(_NAME, name) is not None


def build_scene_unet(name: str, *, classes: int, channels: int) -> SceneUNet:
    """Return a freshly initialised scene-unet-{width}."""
    found = re.fullmatch(_NAME, name)
    assert found is not None, name
    if not int(found[1]):
        raise ValueError(f"builtin/{name} cannot be built: its width must be positive")
    return SceneUNet(width=int(found[1]), classes=classes, channels=channels)


def _joined(below: Tensor, beside: Tensor) -> Tensor:
    return torch.cat((_enlarged(below, beside), beside), 1)


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    size = (like.shape[2], like.shape[3])
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
