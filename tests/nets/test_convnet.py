import pytest
import torch

from doublure.nets.convnet import ConvNet
from doublure.nets.network import count_parameters


def test_the_count_by_hand():
    # 3x3 convolutions 1-16-32-64, two numbers for each BatchNorm channel, 64 x 10 + 10.
    expected = 9 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 650
    assert count_parameters(ConvNet(width=16, classes=10, channels=1)) == expected


@pytest.mark.parametrize("side", [8, 16, 32])
def test_it_takes_digits_and_pictures(side):
    assert ConvNet(width=6, classes=10, channels=1)(torch.rand(2, 1, side, side)).shape == (2, 10)


def test_a_width_of_zero_is_refused():
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        ConvNet(width=0, classes=10, channels=1)
