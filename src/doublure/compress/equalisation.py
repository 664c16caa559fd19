"""Cross-layer equalisation: channels between two layers get ranges of one size.

Between a layer W1 and the layer W2 that alone reads it stands what is positively homogeneous,
f(c x) = c f(x) for c > 0: BatchNorm (its weight and bias), ReLU, pooling. Channel j of what W1
writes, divided by s_j, and of what W2 reads, multiplied by s_j, leave the answers as they are:

    r1_j = max |W1_j|  (BatchNorm's scale included),   r2_j = max |W2_.j|
    s_j = sqrt(r1_j r2_j) / r2_j

(Nagel et al., arXiv:1906.04721, sec. 4.1). One range for a whole tensor then serves each channel
alike. Pairs lie inside blocks: no skip connection reads or writes between the two.

Differs from the paper: s_j is rounded to a power of two, so that answers stay bit for bit; a pair
between which something else acts (ReLU6, SiLU) is found by asking, and left as it is.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.compress.layer_calls import called_layers, following_norms
from doublure.nets.channels import Channels, UntraceableError, trace_channels
from doublure.nets.network import Network
from doublure.nets.quantized import holds_plain_weight

# Of the largest answer: what answers may move by for a pair to count as homogeneous. Powers of two
# move nothing at all; a kernel may add in another order.
_TOLERANCE = 1e-5
_PROBE = 8
_LARGEST_EXPONENT = 20.0


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two layers in a row, of which nothing else writes or reads what lies between.

    Args:
        norm: the BatchNorm between them, "" for none.
    """

    first: str
    norm: str
    second: str


def equalising_scales(
    first: Float[Tensor, " channels"], second: Float[Tensor, " channels"]
) -> Float[Tensor, " channels"]:
    """Return s, as powers of two; 1 for a channel that is all zeros on either side.

    Args:
        first: r1, the largest absolute weight that writes each channel.
        second: r2, the largest absolute weight that reads it.
    """
    exponents = (0.5 * (first.log2() - second.log2())).round()
    exponents = exponents.clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    return torch.where((first > 0) & (second > 0), exponents, 0.0).exp2()


def find_pairs(network: Network, images: Tensor) -> tuple[Pair, ...]:
    """Return the pairs of a network, in order, homogeneous or not.

    Raises:
        ValueError: there is none.
    """
    try:
        channels = trace_channels(network)
    except UntraceableError as error:
        raise ValueError(f"cannot equalise: {error}; leave equalisation away") from error
    names = called_layers(network, images[:1])
    norms = following_norms(network, names, images[:1])
    paths = {id(layer): name for name, layer in network.body.named_modules()}
    pairs = []
    for place, first in enumerate(names):
        second = _only_reader(first, names[place + 1 :], names, channels, network.body)
        behind = norms.get(first, [])
        if second is None or len(behind) > 1:
            continue
        pairs.append(Pair(first=first, norm=paths[id(behind[0])] if behind else "", second=second))
    if not pairs:
        raise ValueError(
            "no pair of layers without a skip between them: nothing can be equalised; leave "
            "equalisation away"
        )
    return tuple(pairs)


@torch.no_grad()
def rescale_(body: nn.Module, pair: Pair, scales: Float[Tensor, " channels"]) -> None:
    """Divide what the first layer of a pair writes by `scales`, multiply what the second reads."""
    writer = body.get_submodule(pair.norm or pair.first)
    for name in ("weight", "bias"):
        values = writer._parameters.get(name)
        if values is not None:
            values.div_(scales.view(-1, *[1] * (values.dim() - 1)))
    weight = _weight(body.get_submodule(pair.second))
    if weight.shape[1] == 1 and len(weight) == len(scales):  # depthwise
        weight.mul_(scales.view(-1, *[1] * (weight.dim() - 1)))
        return
    # A linear layer behind a flattened map reads each channel several times in a row.
    reads = scales.repeat_interleave(weight.shape[1] // len(scales))
    weight.mul_(reads.view(1, -1, *[1] * (weight.dim() - 2)))


@torch.no_grad()
def equalise(network: Network, images: Tensor) -> tuple[Network, tuple[Pair, ...]]:
    """Return the network with equalised pairs, and the pairs that were.

    Raises:
        ValueError: there is no pair, or none that can be rescaled without changing answers.
    """
    made = copy.deepcopy(network).eval()
    probe = images[:_PROBE]
    answers = made(probe)
    limit = _TOLERANCE * answers.abs().max()
    done = []
    for pair in find_pairs(made, images):
        scales = equalising_scales(*pair_ranges(made.body, pair))
        kept = {
            name: made.body.get_submodule(name) for name in (pair.norm or pair.first, pair.second)
        }
        before = {name: copy.deepcopy(layer.state_dict()) for name, layer in kept.items()}
        rescale_(made.body, pair, scales)
        if (made(probe) - answers).abs().max() <= limit:
            done.append(pair)
            continue
        for name, layer in kept.items():
            layer.load_state_dict(before[name])
    if not done:
        raise ValueError(
            "no pair of layers with a homogeneous function between them (ReLU, pooling): "
            "equalisation would change the network's answers; leave it away"
        )
    return made.train(network.training), tuple(done)


def pair_ranges(body: nn.Module, pair: Pair) -> tuple[Tensor, Tensor]:
    """Return r1 and r2 of the channels between two layers."""
    weight = _weight(body.get_submodule(pair.first))
    first = weight.flatten(1).abs().amax(1)
    if pair.norm:
        norm = body.get_submodule(pair.norm)
        assert isinstance(norm, _BatchNorm)
        assert norm.running_var is not None
        first = first * norm.weight.abs() * (norm.running_var + norm.eps).rsqrt()
    reader = _weight(body.get_submodule(pair.second))
    if reader.shape[1] == 1 and len(reader) == len(first):
        return first, reader.flatten(1).abs().amax(1)
    by_input = reader.transpose(0, 1).flatten(1).abs().amax(1)
    return first, by_input.view(len(first), -1).amax(1)


def _weight(layer: nn.Module) -> Tensor:
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight.detach()


def _only_reader(
    first: str,
    later: Sequence[str],
    names: Sequence[str],
    channels: Channels,
    body: nn.Module,
) -> str | None:
    """Return the one layer that reads what `first` alone writes, None if there is none."""
    if first not in channels.layers:
        return None
    labels = channels.layers[first][1]
    if len(set(labels.tolist())) != len(labels) or channels.fixed & set(labels.tolist()):
        return None
    writing = [name for name in names if _meets(channels.layers, name, 1, labels)]
    reading = [name for name in names if _meets(channels.layers, name, 0, labels)]
    through = set(writing) & set(reading)  # depthwise layers hand labels on
    if [name for name in writing if name not in through and name != first] and first not in through:
        return None
    chain = [name for name in names if name in {*writing, *reading}]
    if len([name for name in writing if name not in through]) > 1:
        return None
    if len([name for name in reading if name not in through]) > 1:
        return None
    following = chain[chain.index(first) + 1 :]
    if not following or not all(holds_plain_weight(body.get_submodule(n)) for n in chain):
        return None
    second = following[0]
    inputs = channels.layers[second][0]
    spread = labels.repeat_interleave(max(1, len(inputs) // len(labels)))
    return second if second in later and torch.equal(inputs, spread) else None


def _meets(
    layers: Mapping[str, tuple[Tensor, Tensor]], name: str, side: int, labels: Tensor
) -> bool:
    return name in layers and bool(torch.isin(layers[name][side], labels).any())
