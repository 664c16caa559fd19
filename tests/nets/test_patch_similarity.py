import math

import pytest
import torch
from torch import Tensor, nn

from doublure.core.seeding import from_seed
from doublure.nets.patch_similarity import (
    BANDWIDTH,
    PatchRecorder,
    attention_layers,
    patch_entropy,
    patch_similarities,
    require_attention,
    spread,
)
from doublure.nets.vit import VisionTransformer

# The differential entropy of one Gaussian kernel.
ONE_KERNEL = 0.5 * math.log(2 * math.pi * math.e * BANDWIDTH**2)


def values(*shape: int, low: float = -0.9, high: float = 0.9, seed: int = 0) -> Tensor:
    numbers = torch.rand(shape, generator=from_seed(seed), dtype=torch.float64)
    return low + (high - low) * numbers


def by_hand(similarities: Tensor) -> float:
    """The entropy of the kernel density on a fine grid, in float64."""
    places = torch.linspace(-1.5, 1.5, 30001, dtype=torch.float64)
    kernels = torch.exp(-((places[:, None] - similarities) ** 2) / (2 * BANDWIDTH**2))
    density = kernels.mean(1) / (BANDWIDTH * math.sqrt(2 * math.pi))
    entropy = torch.where(density > 0, -density * density.clamp(min=1e-300).log(), 0.0)
    return torch.trapezoid(entropy, places).item()


def test_similarities_are_cosines_of_each_pair_once():
    tokens = torch.tensor([[[1.0, 0], [0, 2], [3, 3]]])
    half = math.sqrt(0.5)
    torch.testing.assert_close(patch_similarities(tokens), torch.tensor([[0.0, half, half]]))


def test_equal_similarities_spread_as_one_kernel_does_and_two_values_by_a_bit_more():
    same = torch.full((1, 50), 0.3, dtype=torch.float64)
    assert spread(same, BANDWIDTH).item() == pytest.approx(ONE_KERNEL, abs=0.02)
    apart = torch.cat([same - 0.9, same], dim=1)
    assert spread(apart, BANDWIDTH).item() == pytest.approx(ONE_KERNEL + math.log(2), abs=0.02)


@pytest.mark.parametrize("count", [3, 40, 400])
def test_the_spread_is_the_entropy_of_the_kernel_density(count: int):
    drawn = values(2, count)
    found = spread(drawn, BANDWIDTH).tolist()
    assert found == pytest.approx([by_hand(row) for row in drawn], abs=0.02)


def test_the_extremes_of_a_cosine_are_inside_the_grid():
    ends = torch.tensor([[-1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    expected = [ONE_KERNEL + math.log(2), ONE_KERNEL]
    assert spread(ends, BANDWIDTH).tolist() == pytest.approx(expected, abs=0.02)


def test_the_gradient_is_finite_everywhere_and_drives_values_apart():
    close = torch.tensor([[0.0, 0.06, -1.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(spread(close, BANDWIDTH).sum(), close)
    assert gradient.isfinite().all()
    assert gradient[0, 0] < 0 < gradient[0, 1]


def test_neither_the_order_nor_a_rotation_of_patches_matters():
    tokens = torch.randn(2, 9, 6, generator=from_seed(0), dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=from_seed(1), dtype=torch.float64)).Q
    whole = patch_entropy([tokens])
    order = torch.randperm(9, generator=from_seed(2))
    torch.testing.assert_close(patch_entropy([tokens[:, order]]), whole)
    torch.testing.assert_close(patch_entropy([3 * tokens @ rotation]), whole)
    torch.testing.assert_close(patch_entropy([tokens, tokens]), 2 * whole)


def vit() -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(size=(8, 8), classes=10, channels=1, dim=12, depth=2, heads=2)


def test_patches_are_recorded_without_the_class_token_and_no_hook_stays():
    network = vit()
    names = attention_layers(network)
    assert names == ("blocks.0.attn", "blocks.1.attn")
    seen: list[Tensor] = []
    handle = network.blocks[0].attn.proj.register_forward_pre_hook(
        lambda layer, inputs: seen.append(inputs[0])
    )
    with PatchRecorder(network, names) as recorder:
        network(torch.rand(3, 1, 8, 8, generator=from_seed(0)))
        first, second = recorder.read()
        assert recorder.read() == ()
    handle.remove()
    assert first.shape == second.shape == (3, 16, 12)
    assert torch.equal(first, seen[0][:, 1:])
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in network.modules())


class Attending(nn.Module):
    """Patches that attend to each other by torch's own layer, of either layout."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        if not self.attention.batch_first:
            tokens = tokens.transpose(0, 1)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_own_attention_is_known_in_both_layouts(batch_first: bool):
    network = Attending(batch_first=batch_first)
    with PatchRecorder(network, require_attention(network)) as recorder:
        answer = network(torch.rand(3, 1, 8, 8))
        (tokens,) = recorder.read()
    assert tokens.shape == (3, 16, 8)
    assert torch.equal(tokens, answer if batch_first else answer.transpose(0, 1))


class Windowed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)
        self.patches = nn.Conv2d(1, 4, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.patches(images).flatten(2).transpose(1, 2).reshape(-1, 4, 4))


def test_what_does_not_attend_to_all_patches_is_refused():
    with pytest.raises(ValueError, match="but the teacher has none; set patches to 0"):
        require_attention(nn.Sequential(nn.Conv2d(1, 2, 3)))
    network = Windowed()
    with (
        PatchRecorder(network, attention_layers(network)),
        pytest.raises(ValueError, match=r"all 16 patches .* shape \(8, 4, 4\)"),
    ):
        network(torch.rand(2, 1, 8, 8))
