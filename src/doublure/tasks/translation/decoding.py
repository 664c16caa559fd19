"""Decoding of sentences: greedy, by sampling, or by beam search.

All sentences of a batch are decoded together; a token costs one step of the decoder, since keys and
values are cached. A sentence ends with `END`, followed by `PAD`, or at its limit; when half of a
batch has ended, its rows are removed (not with beams). Beam search ranks by log q(y | x) / |y|, Wu
et al., arXiv:1609.08144, eq. 14 with alpha = 1.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from doublure.core.checks import positive
from doublure.nets.network import Network
from doublure.tasks.translation.contract import BEGIN, END, PAD
from doublure.tasks.translation.translator import Translator


def limits_of(source: Int64[Tensor, "batch source"], longest: int) -> Int64[Tensor, "batch 1"]:
    """Return the maximum length of each translation: twice the sentence's plus ten, or longest.

    The limit is per sentence, independent of the batch.
    """
    return (2 * (source != PAD).sum(1, keepdim=True) + 10).clamp(max=longest)


def prefix_of(tokens: Int64[Tensor, "batch length"]) -> Int64[Tensor, "batch length"]:
    """Return the tokens before each token of a sentence."""
    begin = torch.full_like(tokens[:, :1], BEGIN)
    before = torch.cat([begin, tokens[:, :-1]], dim=1)
    return torch.where(before == END, PAD, before)


@torch.no_grad()
def translate(
    network: Network,
    source: Int64[Tensor, "batch source"],
    longest: int,
    *,
    rng: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Int64[Tensor, "batch length"]:
    """Return a translation of each sentence: the likeliest next token each time, or a sample.

    Args:
        network: in eval mode, unless dropout is wanted.
        longest: tokens of any translation; see `limits_of`.
        rng: draws the tokens from softmax(logits / temperature); None takes the likeliest.
    """
    positive("temperature", temperature)
    body = _translator(network)
    cache = body.read(source)
    limits = limits_of(source, longest)
    made = torch.full((len(source), int(limits.max())), PAD, device=source.device)
    # Indices of active sentences, and which of them have ended since.
    rows, over = torch.arange(len(source), device=source.device), torch.zeros_like(limits) > 0
    token = torch.full_like(limits, BEGIN)
    for place in range(made.shape[1]):
        logits = _allowed(body.answer(token, cache)[:, -1])
        if rng is None:
            token = logits.argmax(-1, keepdim=True)
        else:
            # On the generator's device: a seed gives the same sentences on every device.
            shares = (logits / temperature).softmax(-1).to(rng.device)
            token = torch.multinomial(shares, 1, generator=rng).to(source.device)
        token = token.masked_fill(over, PAD)
        made[rows, place] = token[:, 0]
        over = over | (token == END) | (limits[rows] == place + 1)
        left = int((~over).sum())
        if left == 0:
            return made[:, : place + 1]
        if 2 * left <= len(rows):  # less often would waste steps, more often would waste copies
            kept = (~over)[:, 0].nonzero()[:, 0]
            cache.take(kept)
            rows, token, over = rows[kept], token[kept], over[kept]
    return made


@torch.no_grad()
def beam_search(
    network: Network, source: Int64[Tensor, "batch source"], longest: int, beams: int
) -> Int64[Tensor, "batch length"]:
    """Return the best translation of each sentence that a beam of this width finds."""
    positive("beams", beams)
    body, count = _translator(network), len(source)
    cache = body.read(source)
    rows = torch.arange(count, device=source.device).repeat_interleave(beams)
    cache.take(rows)
    tokens = torch.full((count * beams, 1), BEGIN, device=source.device)
    # All beams are equal at the start: only the first one continues, else they stay equal.
    scores = torch.full((count, beams), -torch.inf, device=source.device)
    scores[:, 0] = 0
    over, lengths = torch.zeros_like(scores, dtype=torch.bool), torch.ones_like(scores)
    limits = limits_of(source, longest)
    for place in range(int(limits.max())):
        step = _allowed(body.answer(tokens[:, -1:], cache)[:, -1]).log_softmax(-1)
        classes = step.shape[1]
        step = step.view(count, beams, classes)
        # Ended sentences continue with padding, at no cost.
        rest = torch.full_like(step, -torch.inf)
        rest[..., PAD] = 0
        total = scores[..., None] + torch.where(over[..., None], rest, step)
        ranked = total / (lengths + ~over)[..., None]
        best = ranked.flatten(1).topk(beams).indices
        parent, token = best // classes, best % classes
        scores = total.flatten(1).gather(1, best)
        lengths = (lengths + ~over).gather(1, parent)
        over = over.gather(1, parent) | (token == END) | (limits == place + 1)
        rows = (parent + beams * torch.arange(count, device=source.device)[:, None]).flatten()
        tokens = torch.cat([tokens[rows], token.view(-1, 1)], dim=1)
        cache.take(rows)
        if over[:, 0].all():
            break
    return tokens.view(count, beams, -1)[:, 0, 1:]


def _allowed(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    """Return the logits with padding and the start token excluded."""
    logits = logits.float()
    logits[:, [PAD, BEGIN]] = -torch.inf
    return logits


def _translator(network: Network) -> Translator:
    if not isinstance(network.body, Translator):
        raise ValueError(f"{type(network.body).__name__} is no translator; it decodes no sentence")
    return network.body
