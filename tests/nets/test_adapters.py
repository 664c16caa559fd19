import torch

from doublure.nets.adapters import conv_adapter, linear_adapter, to_smaller


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_weights_come_from_the_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (conv_adapter(3, 5, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one[0].weight, same[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_maps_keep_their_size_and_get_the_width():
    assert conv_adapter(3, 5, rng())(torch.rand(2, 3, 4, 6)).shape == (2, 5, 4, 6)
    assert conv_adapter(3, 5, rng(), kernel=3, norm=False)(torch.rand(2, 3, 4, 6)).shape[1] == 5
    assert linear_adapter(3, 5, rng())(torch.rand(2, 3)).shape == (2, 5)


def test_a_linear_adapter_keeps_the_variance():
    out = linear_adapter(400, 300, rng())(torch.randn(200, 400, generator=rng(1)))
    assert abs(out.var().item() - 1) < 0.02


def test_the_larger_map_is_averaged_down_on_each_side():
    one, other = to_smaller(torch.rand(1, 2, 8, 3), torch.rand(1, 4, 4, 6))
    assert one.shape == (1, 2, 4, 3)
    assert other.shape == (1, 4, 4, 3)


def test_maps_of_one_size_are_left_alone():
    maps = torch.rand(1, 2, 4, 4), torch.rand(1, 3, 4, 4)
    assert all(a is b for a, b in zip(to_smaller(*maps), maps, strict=True))
