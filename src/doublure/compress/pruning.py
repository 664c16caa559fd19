"""Filter pruning: remove the channels whose removal changes the loss least.

A gate g = 1 multiplies each channel (after its BatchNorm, if it has one). The first-order change of
the loss when gate s is set to 0 is g_s dL/dg_s, and the importance is (Molchanov et al., eq. 8)

    I_s = mean over samples of (g_s dL/dg_s)^2 .

Channels that can only be removed together (`channels`) form a group with one gate: their gradients
are summed and divided by their number. The groups of all layers are ranked together, and the least
important are removed until the required ratio of filters is reached. The network itself gets
narrower: fewer parameters, fewer multiply-adds.

Which L? Without data the natural loss is KL(p_teacher || p_student), but the unpruned network is
its own teacher: the gradient is 0 for every sample, and so is every importance. "fisher" samples a
label y' from the teacher's probabilities and uses -log q_y': the mean of its squared gradient is
the Fisher information, twice the second-order importance of that KL. "labels" uses the
cross-entropy with the labels of the set, "kl" the KL itself, for later rounds of pruning.

With a table of latencies the score is I_s + latency_weight I_lat(s) (`latency`): filters that cost
time are removed earlier. The table is evaluated once per round, for the unpruned network.

With `repair`, the remaining weights of a layer are solved to reproduce its outputs
(`compress.repair`).

Differs from the paper: gradients are squared per sample, not per mini-batch, so that the result
does not depend on the batch size.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from doublure.compress.latency import latency_changes, read_latencies
from doublure.compress.pruning_loss import PruningLoss, loss_function
from doublure.compress.repair import repair
from doublure.core.cards import Card
from doublure.core.checks import one_of, positive
from doublure.core.protocols import Batch
from doublure.core.seeding import child
from doublure.nets.channels import Channels, Gate, trace_channels
from doublure.nets.features import device_of
from doublure.nets.network import Network
from doublure.nets.pruned import narrow_, record_of
from doublure.nets.quantized import is_quantized

CARD = Card(
    paper="Molchanov, Mallya, Tyree, Frosio, Kautz: Importance Estimation for Neural Network "
    "Pruning, arXiv:1906.10771; without data: Yin et al.: Dreaming to Distill, arXiv:1912.08795",
    needs=("logits", "weights"),
    reported={
        "ImageNet, ResNet-50": 76.1,
        "20 % of its filters removed, not fine-tuned": 16.6,
        "the same, fine-tuned on adaptive DeepInversion's images": 73.3,
    },
)

Importance = Literal["taylor", "l1", "random"]
# Largest relative difference between the narrow network and the masked one.
_TOLERANCE = 1e-4


def taylor_importance(gradients: Float[Tensor, "samples gates"]) -> Float[Tensor, " gates"]:
    """Return the mean squared first-order change of the loss, for gates equal to 1."""
    return gradients.double().square().mean(0)


def shared_gradients(
    gradients: Float[Tensor, "samples gates"], groups: Int64[Tensor, " gates"], count: int
) -> Float[Tensor, "samples {count}"]:
    """Return the mean of the gradients over the gates of each group."""
    summed = gradients.new_zeros(len(gradients), count).index_add(1, groups, gradients)
    shares: Tensor = summed / groups.bincount(minlength=count).clamp(min=1)
    return shares


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Transform: remove the least important filters, 20 % by default.

    Args:
        ratio: share of the prunable filters to remove.
        importance: "taylor", or the controls "l1" (mean absolute weight) and "random".
        loss: loss whose gradient "taylor" squares: "fisher", "labels" or "kl".
        least: minimum number of channels of every layer.
        latency: file with a table of latencies (JSON; see `compress.latency`), for latency-aware
            scores.
        latency_weight: importance of one millisecond; must be positive if there is a table.
        repair: solve the layers that lost inputs by least squares, on the given images.
    """

    ratio: float = 0.2
    importance: Importance = "taylor"
    loss: PruningLoss = "fisher"
    least: int = 1
    latency: str | None = None
    latency_weight: float = 0.0
    repair: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio must be in (0, 1), got {self.ratio}")
        one_of("importance", self.importance, get_args(Importance))
        one_of("loss", self.loss, get_args(PruningLoss))
        positive("least", self.least)
        if self.latency_weight < 0 or (self.latency_weight > 0) != (self.latency is not None):
            raise ValueError(
                "latency and latency_weight are used together: set a table and a positive weight, "
                f"got {self.latency} and {self.latency_weight:g}"
            )

    def __call__(
        self, model: nn.Module, batches: Iterable[Batch] | None, rng: torch.Generator
    ) -> Network:
        """Return `model` without its least important filters, measured on `batches`."""
        if not isinstance(model, Network):
            raise TypeError(f"pruning needs a Network, got {type(model).__name__}")
        if is_quantized(model):
            raise ValueError("the network is quantized; prune first, then quantize the result")
        all_batches = [*(batches or ())]
        if self.repair and not all_batches:
            raise ValueError("repair needs images, got none; add some, or use repair=False")
        channels = trace_channels(model)
        scores = self._scores(model, channels, all_batches, rng)
        if channels.holds:
            warnings.warn(channels.holds, stacklevel=2)
        if self.latency is not None:
            table = read_latencies(Path(self.latency))
            scores = scores.double() + self.latency_weight * latency_changes(table, channels)
        removed = least_important(channels, scores, self.ratio, self.least)
        pruned = copy.deepcopy(model)
        kept = channels.without(removed)
        narrow_(pruned.body, kept)
        pruned.plan = (*model.plan, record_of(pruned.body, kept))
        _check(model, pruned, [gate for label in removed for gate in channels.gates[label]])
        if not self.repair:
            return pruned
        images = torch.cat([batch.images for batch in all_batches])
        return repair(model, pruned, channels, kept, images, child(rng, "repair"))

    def _scores(
        self,
        model: Network,
        channels: Channels,
        batches: Sequence[Batch],
        rng: torch.Generator,
    ) -> Tensor:
        labels = channels.prunable
        if not labels:
            why = f" ({channels.holds})" if channels.holds else ""
            raise ValueError(f"nothing to prune: no convolution has removable channels{why}")
        if self.importance == "random":
            return torch.rand(len(labels), generator=child(rng, "importance"))
        if self.importance == "l1":
            return mean_absolute_weights(model, channels)
        scores = importances(model, channels, batches, self.loss, rng)
        if not (scores > 0).any():
            raise ValueError(
                "every importance is 0: the KL has no gradient while the network is equal to its "
                "teacher; use loss='fisher'"
            )
        return scores


def importances(
    model: Network,
    channels: Channels,
    batches: Iterable[Batch],
    loss: PruningLoss,
    rng: torch.Generator,
) -> Float[Tensor, " labels"]:
    """Return the Taylor importance of each prunable label, over all samples of `batches`."""
    order = {label: i for i, label in enumerate(channels.prunable)}
    gates = {label: _importance_gates(channels.gates[label]) for label in order}
    flat = [(order[label], gate) for label, members in gates.items() for gate in members]
    groups = torch.tensor([group for group, _ in flat])
    summed, count = torch.zeros(len(order), dtype=torch.float64), 0
    for step, batch in enumerate(batches):
        gradients = gate_gradients(
            model,
            [gate for _, gate in flat],
            batch,
            loss_function(loss, child(rng, "labels", step)),
        )
        shared = shared_gradients(gradients.cpu(), groups, len(order))
        summed += taylor_importance(shared) * len(shared)
        count += len(shared)
    if count == 0:
        raise ValueError("importance is measured on images, got none")
    return summed / count


def gate_gradients(
    model: Network,
    gates: Sequence[Gate],
    batch: Batch,
    loss: Callable[[Tensor, Batch], Tensor],
) -> Float[Tensor, "samples gates"]:
    """Return the gradient of each sample's loss with respect to each gate, in eval mode."""
    images = batch.images
    opened: dict[str, Tensor] = {}
    for name in dict.fromkeys(gate.layer for gate in gates):
        width = _width(model.body.get_submodule(name))
        opened[name] = torch.ones(len(images), width, device=images.device, requires_grad=True)
    with _gated(model, opened):
        losses = loss(model(images).float(), batch)
        gradients = torch.autograd.grad(losses.sum(), list(opened.values()), allow_unused=True)
    # The output of a layer that does not affect the loss has no gradient.
    by_layer = dict(zip(opened, gradients, strict=True))
    zeros = torch.zeros(len(images), device=images.device)
    columns = []
    for gate in gates:
        gradient = by_layer[gate.layer]
        columns.append(zeros if gradient is None else gradient[:, gate.channel])
    return torch.stack(columns, 1)


def mean_absolute_weights(model: Network, channels: Channels) -> Float[Tensor, " labels"]:
    """Return the mean absolute weight of the filters that write each prunable label."""
    order = {label: i for i, label in enumerate(channels.prunable)}
    sums, counts = torch.zeros(len(order)), torch.zeros(len(order))
    for name, (_, outputs) in channels.layers.items():
        layer = model.body.get_submodule(name)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            means = layer.weight.detach().flatten(1).abs().mean(1).cpu()
            for label, value in zip(outputs.tolist(), means, strict=True):
                if label in order:
                    sums[order[label]] += value
                    counts[order[label]] += 1
    return sums / counts


def least_important(
    channels: Channels, scores: Float[Tensor, " labels"], ratio: float, least: int
) -> tuple[int, ...]:
    """Return the groups to remove, least important first, for a ratio of the filters.

    A group stays if it has more filters than the rest of the budget, or if a layer would have fewer
    than `least` channels without it.

    Raises:
        ValueError: no group can be removed.
    """
    labels = channels.prunable
    budget = round(ratio * sum(channels.filters[label] for label in labels))
    remaining = {name: Counter(outputs.tolist()) for name, (_, outputs) in _layers(channels)}
    width = {name: sum(counts.values()) for name, counts in remaining.items()}
    removed: list[int] = []
    for place in torch.argsort(scores, stable=True).tolist():
        label = labels[place]
        removed_channels = {
            name: counts[label] for name, counts in remaining.items() if label in counts
        }
        if channels.filters[label] > budget:
            continue
        if any(width[name] - count < least for name, count in removed_channels.items()):
            continue
        budget -= channels.filters[label]
        for name, count in removed_channels.items():
            width[name] -= count
        removed.append(label)
    if not removed:
        raise ValueError(
            f"a ratio of {ratio:g} of the filters is less than one group of channels, or every "
            f"layer has its minimum of {least}; raise ratio"
        )
    return tuple(removed)


def _layers(channels: Channels) -> list[tuple[str, tuple[Tensor, Tensor]]]:
    """Return the layers that need a minimum width: all except paddings."""
    written = {gate.layer for gates in channels.gates.values() for gate in gates}
    return [(name, pair) for name, pair in channels.layers.items() if name in written]


def _importance_gates(gates: Sequence[Gate]) -> list[Gate]:
    after_norm = [gate for gate in gates if gate.behind_batchnorm]
    return after_norm or list(gates)


class _gated:  # noqa: N801  # a context manager, used like a function
    """Multiplies the outputs of layers by gates, with the network in eval mode."""

    def __init__(self, network: Network, gates: Mapping[str, Tensor]) -> None:
        self._network, self._gates = network, gates

    def __enter__(self) -> None:
        self._was = {module: module.training for module in self._network.modules()}
        self._network.eval()

        def hook_of(gate: Tensor) -> Callable[..., Tensor]:
            def multiply(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
                return output * gate.view(*gate.shape, *[1] * (output.dim() - 2))

            return multiply

        self._handles = [
            self._network.body.get_submodule(name).register_forward_hook(hook_of(gate))
            for name, gate in self._gates.items()
        ]

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        for module, was in self._was.items():
            module.training = was


def masked_output(network: Network, gates: Sequence[Gate], images: Tensor) -> Tensor:
    """Return the network's output with these gates set to 0."""
    masks: dict[str, Tensor] = {}
    for gate in gates:
        width = _width(network.body.get_submodule(gate.layer))
        mask = masks.setdefault(gate.layer, torch.ones(1, width, device=images.device))
        mask[0, gate.channel] = 0.0
    with torch.no_grad(), _gated(network, masks):
        output: Tensor = network(images)
    return output


def _check(model: Network, pruned: Network, gates: Sequence[Gate]) -> None:
    """Raise unless the narrow network has the same outputs as the masked one."""
    contract = model.contract
    images = torch.rand(
        2, contract.channels, *contract.size, generator=torch.Generator().manual_seed(0)
    ).to(device_of(model))
    expected = masked_output(model, gates, images)
    try:
        output = masked_output(pruned, (), images)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"cannot prune {type(model.body).__name__}: its forward depends on the number of "
            f"channels ({reason})"
        ) from error
    worst = float((output - expected).abs().max())
    if not worst <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ValueError(
            f"cannot prune {type(model.body).__name__}: removing channels changes its outputs by "
            f"{worst:.3g} compared with setting them to 0; an activation maps 0 to another value"
        )


def _width(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    return layer.num_features
