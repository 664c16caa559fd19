import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doublure.core.protocols import InputContract
from doublure.nets.builtin import build
from doublure.nets.memory_format import to_channels_last_
from doublure.nets.network import Network

CONTRACT = InputContract(size=(8, 8), channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, classes=2)


class LeNet(nn.Module):
    """Flattens by `view`, which a map of features in channels-last order does not take."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(4 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x).relu(), 2)
        return self.linear(x.view(len(x), -1))


def lenet(channels: int) -> Network:
    contract = dataclasses.replace(
        CONTRACT, channels=channels, mean=(0.5,) * channels, std=(0.2,) * channels
    )
    return Network(LeNet(channels), contract)


def in_rows_of_pixels(images: Tensor) -> Tensor:
    """Return the same images as a reader of files has them: height, width, channels in memory."""
    return images.permute(0, 2, 3, 1).clone().permute(0, 3, 1, 2)


def test_a_network_that_can_be_is_laid_out_and_answers_alike():
    made = Network(build("resnet8", classes=2, size=(8, 8)), CONTRACT).eval()
    images = torch.rand(2, 3, 8, 8)
    before = made(images)
    assert to_channels_last_(made)
    assert made.body.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made(images), before)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_asks_for_the_usual_order_keeps_it(channels):
    made = lenet(channels)
    images = torch.rand(2, channels, 8, 8)
    before = made(images)
    strides = made.body.conv.weight.stride()
    assert not to_channels_last_(made)
    assert made.body.conv.weight.stride() == strides
    torch.testing.assert_close(made(images), before, rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_shown_images_in_that_order_whatever_theirs(channels):
    made, images = lenet(channels), torch.rand(2, channels, 8, 8)
    torch.testing.assert_close(made(in_rows_of_pixels(images)), made(images))


def test_laying_out_touches_neither_mode_nor_statistics():
    made = Network(build("resnet8", classes=2, size=(8, 8)), CONTRACT).train()
    before = made.body.bn1.running_mean.clone()
    to_channels_last_(made)
    assert made.training
    assert made.body.bn1.running_mean.equal(before)


def test_other_modules_are_laid_out_unasked():
    conv = nn.Conv2d(3, 4, 3)
    assert to_channels_last_(conv)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
