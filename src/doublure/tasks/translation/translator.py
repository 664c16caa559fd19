"""An encoder-decoder Transformer, in plain torch.

Vaswani et al.: Attention Is All You Need, arXiv:1706.03762, with the layer norms before each part
(arXiv:2002.04745), which trains without a long warm-up. Input and output embeddings of the target
language are one matrix (arXiv:1608.05859).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from doublure.tasks.translation.contract import PAD

_KeysValues = tuple[Tensor, Tensor]


@dataclass
class Cache:
    """The cache of a decoder between two tokens: keys and values, by layer.

    Args:
        seen: keys and values of the source, computed once.
        own: keys and values of the tokens so far.
        mask: True for source tokens that are not padding.
    """

    seen: list[_KeysValues]
    own: list[_KeysValues | None]
    mask: Bool[Tensor, "batch 1 1 source"]
    length: int = 0

    def take(self, rows: Int64[Tensor, " rows"]) -> None:
        """Keep these rows of the batch; a row may occur more than once."""
        self.mask = self.mask[rows]
        self.seen = [(keys[rows], values[rows]) for keys, values in self.seen]
        self.own = [None if kept is None else (kept[0][rows], kept[1][rows]) for kept in self.own]


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention over several heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def keys_values(self, x: Float[Tensor, "batch length width"]) -> _KeysValues:
        """Return keys and values by head, of shape (batch, heads, length, width of a head)."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._by_head(keys), self._by_head(values)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(
            self._by_head(self.query(x)), keys, values, mask, dropout, is_causal=causal
        )
        joined: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return joined

    def _by_head(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Attention among the source tokens, then a two-layer network."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.feed = _feed_forward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        inside = self.norm1(x)
        keys, values = self.attention.keys_values(inside)
        x = x + self.dropout(self.attention(inside, keys, values, mask))
        made: Tensor = x + self.dropout(self.feed(self.norm2(x)))
        return made


class DecoderLayer(nn.Module):
    """Attention to the tokens before, to the source, then a two-layer network."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.own = MultiHeadAttention(width, heads, dropout)
        self.seen = MultiHeadAttention(width, heads, dropout)
        self.feed = _feed_forward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, seen: _KeysValues, mask: Tensor, before: _KeysValues | None
    ) -> tuple[Tensor, _KeysValues]:
        inside = self.norm1(x)
        keys, values = self.own.keys_values(inside)
        if before is not None:
            keys = torch.cat([before[0], keys], dim=2)
            values = torch.cat([before[1], values], dim=2)
        # A single token may attend to all earlier ones; the first attends to itself in any case.
        causal = before is None
        x = x + self.dropout(self.own(inside, keys, values, None, causal=causal))
        x = x + self.dropout(self.seen(self.norm2(x), *seen, mask))
        return x + self.dropout(self.feed(self.norm3(x))), (keys, values)


class Translator(nn.Module):
    """A network from {"source", "prefix"} tokens to logits of the token after each prefix."""

    def __init__(
        self,
        *,
        source_classes: int,
        target_classes: int,
        layers: int,
        width: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.width = width
        self.source = nn.Embedding(source_classes, width)
        self.target = nn.Embedding(target_classes, width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, dropout) for _ in range(layers))
        self.norm_source, self.norm_target = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for embedding in (self.source, self.target):
            nn.init.normal_(embedding.weight, std=width**-0.5)  # of unit size once scaled

    def forward(
        self, tokens: Mapping[str, Int64[Tensor, "batch _"]]
    ) -> Float[Tensor, "batch prefix classes"]:
        return self.answer(tokens["prefix"], self.read(tokens["source"]))

    def read(self, source: Int64[Tensor, "batch source"]) -> Cache:
        """Return the decoder's cache for the source sentences."""
        mask = (source != PAD)[:, None, None]
        x = self._embedded(self.source, source, 0)
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.norm_source(x)
        seen = [_decoder_layer(layer).seen.keys_values(x) for layer in self.decoder]
        return Cache(seen=seen, own=[None] * len(seen), mask=mask)

    def answer(
        self, tokens: Int64[Tensor, "batch prefix"], cache: Cache
    ) -> Float[Tensor, "batch prefix classes"]:
        """Return the logits after each of these tokens, and add them to the cache.

        Args:
            tokens: a whole prefix, or the single token after an earlier one.
        """
        assert cache.length == 0 or tokens.shape[1] == 1
        x = self._embedded(self.target, tokens, cache.length)
        for i, layer in enumerate(self.decoder):
            x, cache.own[i] = layer(x, cache.seen[i], cache.mask, cache.own[i])
        cache.length += tokens.shape[1]
        return F.linear(self.norm_target(x), self.target.weight)

    def _embedded(self, embedding: nn.Embedding, tokens: Tensor, first: int) -> Tensor:
        places = _positions(first, tokens.shape[1], self.width, tokens.device)
        embedded: Tensor = self.dropout(embedding(tokens) * math.sqrt(self.width) + places)
        return embedded


def _decoder_layer(layer: nn.Module) -> DecoderLayer:
    assert isinstance(layer, DecoderLayer)  # a ModuleList does not declare the type
    return layer


def _feed_forward(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
    )


def _positions(
    first: int, length: int, width: int, device: torch.device
) -> Float[Tensor, "length width"]:
    """Return sines and cosines of each position at wavelengths from 2 pi to 10000 * 2 pi."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(1e4) / width))
    angles = torch.arange(first, first + length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
