"""How badly can quantization go at a given cost, and where does it hurt?

Inputs of layers are rounded to few bits with dynamic ranges, weights to 8 bits. A policy gives each
layer its bits; at one mean of bits some policies may flip far more answers than others. Asked are:
each layer alone, random policies of equal cost, a greedy and an exchanged worst one, one that
chooses by the image, and the oracle. What is chosen is chosen on one half of the images and told of
the other. No label is needed; the audit changes nothing.

A layer is vulnerable where it alone, at the fewest bits, flips more than `alarm`, beyond what the
number of images leaves open (Wilson's interval). The usual cause is one channel far larger than the
others, so that a range for all of them leaves the others few levels; the inflation
max_c r_c / median_c r_c of channel ranges r shows it. A layer with such a channel is vulnerable as
soon as it is not safe.

Differs from the paper, of which only the abstract could be read: its search learns network and
policy together by reinforcement; here the network is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from doublure.audits.bit_policies import (
    Policy,
    check_mean,
    cost_of,
    draw_policies,
    exchange,
    greedy_policy,
)
from doublure.audits.policy_by_input import learn_policy
from doublure.compress.layer_calls import watch_inputs
from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.compress.sensitivity import LayerBits, Sensitivity, flipped, sensitivity_of
from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.quantization_findings import LayerFinding, QuantizationFinding
from doublure.core.statistics import wilson_interval
from doublure.nets.network import Network
from doublure.nets.rounding import FLOAT

CARD = Card(
    paper="Frank, Ardis: Assessing the Potential for Catastrophic Failure in Dynamic Post-Training "
    "Quantization, arXiv:2510.02457",
    needs=("logits", "weights"),
    reported={
        "points lost by the detrimental pair, at least": 10,
        "points lost by the detrimental pair, at most": 65,
        "points lost by the robust one, at most": 2,
    },
)
_WITNESSES = 20
_CODEBOOK = 48
# Where a layer's bits count as safe: it alone flips no more.
_SAFE = 0.02
# From here on a channel is far larger than the others; those of plain networks are 1 to 4.
_INFLATED = 8.0
_BLUR = (3, 5)
_NOISE = (0.05, 0.1, 0.2)
_CONTRAST = (0.5, 0.25)


@dataclass(frozen=True, kw_only=True)
class WorstCaseQuantization:
    """Audit: the worst policy of bits of equal cost.

    Args:
        bits: widths that a policy may give.
        mean_bits: of a policy, over the layers.
        policies: how many are drawn at random.
        trials: exchanges that are tried.
        alarm: share of answers that a layer alone, or the worst policy, flips for a warning.
        failure: likewise, of the worst policy, for failing.
    """

    bits: tuple[int, ...] = (4, 5, 6, 8)
    mean_bits: float = 6.0
    policies: int = 200
    trials: int = 60
    alarm: float = 0.1
    failure: float = 0.25

    def __post_init__(self) -> None:
        positive("policies", self.policies)
        if sorted(set(self.bits)) != list(self.bits) or not 2 <= self.bits[0] <= self.bits[-1] <= 8:
            raise ValueError(f"bits must grow from 2 to 8 without repetition, got {self.bits}")
        check_mean(self.mean_bits, self.bits)
        if not 0 < self.alarm <= self.failure <= 1:
            raise ValueError(f"alarm must be in (0, failure], got {self.alarm}")


def find_worst_case(
    network: Network,
    images: Float[Tensor, "images channels height width"],
    settings: WorstCaseQuantization,
    rng: torch.Generator,
    labels: Tensor | None = None,
) -> QuantizationFinding:
    """Return how badly quantization of `network` can go on `images`.

    Raises:
        ValueError: there are fewer than four images, or answers are no finite class scores.
    """
    if len(images) < 4:
        raise ValueError(f"the audit needs 4 images or more, got {len(images)}")
    images = images[torch.randperm(len(images), generator=rng)] if labels is None else images
    half = len(images) // 2
    quantization = PostTrainingQuantization(ranges="dynamic")
    stepping = LayerBits(network, images, settings.bits, quantization, weight_bits=8)
    found = sensitivity_of(stepping, images)
    count, bits = len(found.layers), settings.bits
    plain = stepping.answers([FLOAT] * count, images)
    total = cost_of(settings.mean_bits, count, bits)
    table: dict[Policy, Bool[Tensor, " images"]] = {}

    def flips_of(policy: Policy) -> Bool[Tensor, " images"]:
        if policy not in table:
            table[policy] = flipped(plain, stepping.answers(policy, images))
        return table[policy]

    def chosen_by(policy: Policy) -> float:
        return flips_of(policy)[:half].double().mean().item()

    def told(policy: Policy) -> float:
        return flips_of(policy)[half:].double().mean().item()

    drawn = draw_policies(settings.policies, count, bits, total, rng)
    random = [told(policy) for policy in drawn]
    greedy = greedy_policy(found.flips + found.divergence * 1e-3, bits, total)
    start = max([greedy, *drawn], key=chosen_by)
    worst = exchange(start, bits, chosen_by, settings.trials, rng)
    book = sorted(set(table), key=chosen_by)[-_CODEBOOK:]
    by_input = learn_policy(images, torch.stack([table[p] for p in book], 1), rng)
    uniform = {width: flips_of((width,) * count) for width in bits}
    often = torch.stack([flips_of(policy) for policy in drawn]).double().mean(0)
    witnesses = often.argsort(descending=True)[:_WITNESSES]
    layers = _layers(found, stepping.network, images, settings)
    accuracy = {}
    if labels is not None:
        for name, policy in {
            "float": (FLOAT,) * count,
            **{f"{width} bits": (width,) * count for width in bits},
            "worst": worst,
        }.items():
            right = stepping.answers(policy, images).argmax(-1) == labels
            accuracy[name] = right[half:].double().mean().item()
    vulnerable = [layer.name for layer in layers if layer.vulnerable]
    share = told(worst)
    verdict: Literal["ok", "warn", "fail"] = "ok"
    told_of = len(images) - half
    if surely_above(share, told_of, settings.alarm) or vulnerable:
        verdict = "fail" if surely_above(share, told_of, settings.failure) else "warn"
    named = f"; vulnerable: {', '.join(vulnerable[:6])}" if vulnerable else ""
    return QuantizationFinding(
        layers=layers,
        mean_bits=total / count,
        images=len(images),
        uniform={width: row[half:].double().mean().item() for width, row in uniform.items()},
        random_mean=sum(random) / len(random),
        random_worst=max(random),
        random_flips=tuple(random),
        greedy=told(greedy),
        worst=share,
        worst_policy=dict(zip(found.layers, worst, strict=True)),
        by_input=by_input,
        critical_bits=_critical_bits(uniform),
        corrupted=_corrupted(stepping, images, (bits[0],) * count, worst, rng),
        witnesses=tuple(witnesses.tolist()),
        witness_flips=tuple(often[witnesses].tolist()),
        verdict=verdict,
        summary=f"at {total / count:.2f} bits the worst policy flips {share:.1%} of the answers, "
        f"random ones {sum(random) / len(random):.1%}{named}",
        repair=_repair(layers, vulnerable),
        accuracy=accuracy,
    )


def surely_above(share: float, count: int, limit: float) -> bool:
    """Return whether a share of `count` images is above a limit, beyond chance at 95 %."""
    return wilson_interval(round(share * count), count)[0] > limit


def channel_ranges(
    network: Network, images: Tensor, names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return the inflation of channel ranges, and the kurtosis, of each layer's inputs."""
    seen: dict[str, tuple[float, float]] = {}

    def note(name: str, x: Tensor) -> None:
        layer = network.body.get_submodule(name)
        last = isinstance(layer, nn.Linear | nn.MultiheadAttention)
        ranges = x.abs().movedim(-1 if last else 1, 0).flatten(1).amax(1)
        middle = ranges.median().clamp(min=1e-12)
        centred = x.double() - x.double().mean()
        spread = centred.square().mean().clamp(min=1e-24)
        seen[name] = (
            (ranges.max() / middle).item(),
            (centred.pow(4).mean() / spread.square()).item(),
        )

    watch_inputs(network, names, [images], note)
    return seen


def _layers(
    found: Sensitivity, network: Network, images: Tensor, settings: WorstCaseQuantization
) -> tuple[LayerFinding, ...]:
    shapes = channel_ranges(network, images, found.layers)
    layers = []
    for place, name in enumerate(found.layers):
        flips = dict(zip(found.bits, found.flips[place].tolist(), strict=True))
        safe = FLOAT
        for width in reversed(found.bits):
            if flips[width] > _SAFE:
                break
            safe = width
        layers.append(
            LayerFinding(
                name=name,
                flips=flips,
                divergence=dict(zip(found.bits, found.divergence[place].tolist(), strict=True)),
                inflation=shapes[name][0],
                kurtosis=shapes[name][1],
                safe_bits=safe,
                vulnerable=surely_above(flips[found.bits[0]], len(images), settings.alarm)
                or (shapes[name][0] >= _INFLATED and flips[found.bits[0]] > _SAFE),
            )
        )
    return tuple(layers)


def _critical_bits(uniform: Mapping[int, Tensor]) -> dict[int, int]:
    """Return how many images flip first at each width, going down from the widest."""
    flipped_before = torch.zeros_like(next(iter(uniform.values())))
    counts = {}
    for width in sorted(uniform, reverse=True):
        first = uniform[width] & ~flipped_before
        counts[width] = int(first.sum())
        flipped_before |= first
    return {**counts, 0: int((~flipped_before).sum())}


def _corrupted(
    stepping: LayerBits, images: Tensor, lowest: Policy, worst: Policy, rng: torch.Generator
) -> dict[str, tuple[float, float]]:
    noise = torch.randn(images.shape, generator=rng)
    shown = {f"noise {std}": (images + std * noise).clamp(0, 1) for std in _NOISE}
    for side in _BLUR:
        shown[f"blur {side}x{side}"] = F.avg_pool2d(
            images, side, 1, side // 2, count_include_pad=False
        )
    for factor in _CONTRAST:
        middle = images.mean((1, 2, 3), keepdim=True)
        shown[f"contrast {factor}"] = middle + factor * (images - middle)
    found = {}
    for name, changed in shown.items():
        plain = stepping.answers((FLOAT,) * len(lowest), changed)
        shares = [
            flipped(plain, stepping.answers(policy, changed)).double().mean().item()
            for policy in (lowest, worst)
        ]
        found[name] = (shares[0], shares[1])
    return found


def _repair(layers: Sequence[LayerFinding], vulnerable: Sequence[str]) -> str:
    """Return the options of `quantize` that would mend what was found; "" for nothing to mend."""
    if not vulnerable:
        return ""
    inflated = [layer for layer in layers if layer.vulnerable and layer.inflation >= _INFLATED]
    if inflated:
        return "--equalise"
    return " ".join(f"--layer-bits {name}=8" for name in vulnerable)


def to_json(found: QuantizationFinding) -> dict[str, Any]:
    """Return a finding as JSON takes it."""
    held = dict(vars(found))
    held["layers"] = [dict(vars(layer)) for layer in found.layers]
    held["by_input"] = dict(vars(found.by_input))
    return held | {"vulnerable": list(found.vulnerable), "simulated": True}
