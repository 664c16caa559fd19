"""The built-in architectures by name: the networks of the distillation literature.

A name is a family and its numbers, as in the papers: resnet20, wrn40-2, vgg8. All are for small
images and take any number of channels. They are initialised from torch's global generator.
"""

import re
from collections.abc import Callable

from torch import nn

from doublure.core.checks import one_of
from doublure.nets.convnet import ConvNet
from doublure.nets.mobilenet_v2 import MobileNetV2
from doublure.nets.resnet import CifarResNet, ResNet
from doublure.nets.shufflenet_v2 import ShuffleNetV2
from doublure.nets.vgg import VGG
from doublure.nets.vit import VisionTransformer
from doublure.nets.wide_resnet import WideResNet

# Published depths 6n+2; 50 is also one, but resnet50 names another network.
_CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
_STAGED = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

_NAMES = (
    *(f"resnet{depth}" for depth in _CIFAR_DEPTHS),
    *(f"resnet{depth}" for depth in _STAGED),
    *("resnet8x4", "resnet32x4"),
    *("wrn16-1", "wrn16-2", "wrn40-1", "wrn40-2", "wrn28-10"),
    *("vgg8", "vgg11", "vgg13"),
    *("mobilenetv2", "mobilenetv2-0.5", "shufflenetv2"),
    *("vit-small", "convnet-6", "convnet-16"),
)


def names() -> tuple[str, ...]:
    """Return the documented names; wrn{d}-{k}, convnet-{width} and a width factor are free."""
    return _NAMES


def build(
    name: str, *, classes: int, channels: int = 3, size: tuple[int, int] = (32, 32)
) -> nn.Module:
    """Return a freshly initialised network that takes normalised images and returns logits.

    Args:
        name: one of `names()`, another member of a family (wrn22-4, convnet-32), or a network
            made thinner or wider (resnet20-0.5, mobilenetv2-1.4).
    """
    for pattern, make in _FAMILIES:
        numbers = re.fullmatch(pattern, name)
        if numbers is not None:
            return make(*numbers.groups(default="1"), classes=classes, channels=channels, size=size)
    way_out = "; families: wrn{d}-{k}, convnet-{width}, resnet{d}-{factor}, mobilenetv2-{factor}"
    one_of("built-in network", name, _NAMES, way_out=way_out)
    raise AssertionError(f"'{name}' is documented, but no family builds it")


def _cifar_resnet(
    depth: str, width: str, *, classes: int, channels: int, size: tuple[int, int]
) -> nn.Module:
    return CifarResNet(depth=int(depth), width=float(width), classes=classes, channels=channels)


def _resnet(depth: str, *, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    widths = (64, 64, 128, 256, 512)
    return ResNet(blocks=_STAGED[int(depth)], widths=widths, classes=classes, channels=channels)


def _resnet_x4(depth: str, *, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    # Stages four times as wide as the CIFAR network's, a stem only twice, projected shortcuts.
    blocks = ((int(depth) - 2) // 6,) * 3
    return ResNet(blocks=blocks, widths=(32, 64, 128, 256), classes=classes, channels=channels)


def _wide_resnet(
    depth: str, widen: str, *, classes: int, channels: int, size: tuple[int, int]
) -> nn.Module:
    return WideResNet(depth=int(depth), widen=int(widen), classes=classes, channels=channels)


def _vgg(depth: str, *, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    return VGG(depth=int(depth), classes=classes, channels=channels, size=size)


def _mobilenet_v2(width: str, *, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    return MobileNetV2(width=float(width), classes=classes, channels=channels)


def _shufflenet_v2(*, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    return ShuffleNetV2(classes=classes, channels=channels)


def _vit_small(*, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    return VisionTransformer(
        dim=192, depth=6, heads=3, classes=classes, channels=channels, size=size
    )


def _convnet(width: str, *, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    return ConvNet(width=int(width), classes=classes, channels=channels)


_FACTOR = r"(?:-(\d+|\d*\.\d+))?"
_FAMILIES: tuple[tuple[str, Callable[..., nn.Module]], ...] = (
    (rf"resnet({'|'.join(map(str, _CIFAR_DEPTHS))}){_FACTOR}", _cifar_resnet),
    (rf"resnet({'|'.join(map(str, _STAGED))})", _resnet),
    (r"resnet(8|32)x4", _resnet_x4),
    (r"wrn(\d+)-(\d+)", _wide_resnet),
    (r"vgg(8|11|13)", _vgg),
    (rf"mobilenetv2{_FACTOR}", _mobilenet_v2),
    (r"shufflenetv2", _shufflenet_v2),
    (r"vit-small", _vit_small),
    (r"convnet-(\d+)", _convnet),
)
