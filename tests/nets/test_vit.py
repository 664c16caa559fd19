import pytest
import torch

from doublure.nets.vit import VisionTransformer, patch_size


def transformer(dim=12, depth=2, heads=3, size=(32, 32)):
    return VisionTransformer(dim=dim, depth=depth, heads=heads, classes=5, channels=3, size=size)


@pytest.mark.parametrize(
    ("size", "patch"),
    [((8, 8), 2), ((28, 28), 2), ((32, 32), 4), ((64, 64), 8), ((64, 32), 4), ((224, 224), 16)],
)
def test_patches_leave_a_grid_of_about_eight(size, patch):
    assert patch_size(size) == patch


def test_patches_always_divide_the_image():
    assert patch_size((31, 37)) == 1
    assert patch_size((240, 180)) == 15


def test_without_positions_the_order_of_patches_does_not_matter():
    network = transformer().eval()
    torch.nn.init.zeros_(network.pos_embed)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(images.roll(8, dims=-1)), network(images))


def test_with_positions_it_does():
    network = transformer().eval()
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(network(images.roll(8, dims=-1)), network(images))


def test_attention_agrees_with_its_equation():
    attention = transformer().blocks[0].attn.double()
    tokens = torch.randn(2, 7, 12, dtype=torch.float64)
    heads = []
    for head in range(3):
        query, key, value = (
            attention.qkv(tokens)[..., part * 12 + head * 4 : part * 12 + head * 4 + 4]
            for part in range(3)
        )
        heads.append((query @ key.mT / 4**0.5).softmax(-1) @ value)
    expected = attention.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(tokens), expected)


def test_keys_are_timms():
    keys = {key.removesuffix(".weight").removesuffix(".bias") for key in transformer().state_dict()}
    layers = {
        f"blocks.{i}.{layer}"
        for i in range(2)
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    }
    assert keys == layers | {"cls_token", "pos_embed", "patch_embed.proj", "norm", "head"}


def test_positions_start_as_large_as_the_patches():
    torch.manual_seed(0)
    network = transformer(dim=192)
    patches = network.patch_embed(torch.randn(8, 3, 32, 32))
    assert 0.5 < (network.pos_embed.std() / patches.std()).item() < 1.5


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"dim must be a multiple of heads \(3\), got 13"):
        transformer(dim=13)
