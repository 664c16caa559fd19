import torch
from torch import nn

from doublure.nets.he_normal import he_normal_


def test_weights_have_the_variance_two_over_fan_out():
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 128, 3)
    he_normal_(conv)
    expected = 2 / (3 * 3 * 128)
    torch.testing.assert_close(conv.weight.var(), torch.tensor(expected), rtol=0.02, atol=0.0)


def test_biases_start_at_zero_and_normalisation_at_the_identity():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    nn.init.normal_(network[1].weight)
    nn.init.normal_(network[1].bias)
    he_normal_(network)
    assert network[0].bias.eq(0).all()
    assert network[1].weight.eq(1).all()
    assert network[1].bias.eq(0).all()


def test_linear_layers_are_left_as_torch_drew_them():
    linear = nn.Linear(3, 4)
    before = linear.weight.clone()
    he_normal_(linear)
    assert torch.equal(linear.weight, before)


def test_equal_seeds_give_equal_weights():
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    for conv in (first, second):
        torch.manual_seed(7)
        he_normal_(conv)
    assert torch.equal(first.weight, second.weight)
