"""Sequence models so small that every sentence they can say is listed."""

import itertools

import torch
from torch import Tensor

from doublure.nets.network import Network, freeze
from doublure.tasks.translation.contract import BEGIN, END, MARKS, PAD, TextContract
from doublure.tasks.translation.decoding import prefix_of
from doublure.tasks.translation.networks import build_translator

LETTERS = ("a", "b")
LONGEST = 4
CONTRACT = TextContract(
    languages=("x", "y"), source=(*MARKS, *LETTERS), target=(*MARKS, *LETTERS), longest=LONGEST
)
SOURCE = torch.tensor([[4, 5, 4, END]])


def translator(seed: int, sharpness: float = 1.5) -> Network[TextContract]:
    """Return a translator of random weights, whose opinions are strong enough to differ."""
    torch.manual_seed(seed)
    body = build_translator("translator-1-8", len(CONTRACT.source), len(CONTRACT.target))
    with torch.no_grad():
        body.target.weight.mul_(sharpness)
        body.target.weight[3] = -body.target.weight[4:].sum(0)  # an unknown letter is unlikely
    network = freeze(Network(body, CONTRACT))
    assert isinstance(network, Network)
    return network


def sentences() -> Tensor:
    """Return every sentence of at most three letters, or of four without an end."""
    rows = []
    for length in range(LONGEST + 1):
        for letters in itertools.product((3, 4, 5), repeat=length):
            ended = [*letters, END] if length < LONGEST else [*letters]
            rows.append(ended + [PAD] * (LONGEST - len(ended)))
    return torch.tensor(rows)


@torch.no_grad()
def probabilities(network: Network[TextContract], every: Tensor) -> Tensor:
    """Return how likely the network says each sentence."""
    source = SOURCE.expand(len(every), -1)
    logits = network({"source": source, "prefix": prefix_of(every)})
    logits[..., [PAD, BEGIN]] = -torch.inf
    log = logits.log_softmax(-1).gather(-1, every[..., None])[..., 0]
    return torch.where(every == PAD, torch.zeros_like(log), log).sum(1).exp()


def spelled(row: Tensor) -> str:
    """Return the letters of a sentence; a dot stands for its end."""
    letters = {3: "?", 4: "a", 5: "b", END: "."}
    return "".join(letters.get(token, "") for token in row.tolist())
