import pytest
import torch

from doublure.core.bit_packing import pack, pack_weight, unpack, unpack_weights
from doublure.core.seeding import from_seed
from doublure.nets.rounding import fake_quantize_weight, weight_scales


@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_take_their_bits_and_come_back(bits):
    integers = torch.randint(2**bits, (1001,), generator=from_seed(bits))
    packed = pack(integers, bits)
    assert len(packed) == -(-1001 * bits // 8)
    assert torch.equal(unpack(packed, bits, 1001), integers)


def test_two_integers_of_four_bits_share_a_byte():
    assert pack(torch.tensor([1, 15, 7]), 4).tolist() == [0x1F, 0x70]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_weights_on_their_grid_come_back_bit_for_bit(bits):
    weight = torch.randn(16, 3, 3, 3, generator=from_seed(0))
    rounded = fake_quantize_weight(weight, bits)
    stored = pack_weight("a.weight", rounded, weight_scales(weight, bits), bits)
    loaded = unpack_weights(stored)["a.weight"]
    assert torch.equal(loaded, rounded)
    assert torch.equal(fake_quantize_weight(loaded, bits), rounded)


def test_a_damaged_weight_is_named():
    stored = pack_weight("a.weight", torch.ones(2, 3), torch.ones(2), 4)
    stored["a.weight.packed4"] = stored["a.weight.packed4"][:1]
    with pytest.raises(ValueError, match=r"'a\.weight' is damaged"):
        unpack_weights(stored)
    del stored["a.weight.scales"]
    with pytest.raises(ValueError, match=r"'a\.weight' is damaged"):
        unpack_weights(stored)
