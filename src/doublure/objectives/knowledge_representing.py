"""Knowledge representing, reconstructed: the distribution of the teacher's weights as a prior.

For each group g of layers (the layers of one stage) of each network, all weights of its
convolutions and linear layers are standardised and counted in a soft histogram of M bins on [-4, 4]
    h_m = mean over w of max(0, 1 - |u - c_m| / d),   u = (w - mean) / std,
c_m are the bin centres, d is their distance; values outside the range count in the end bins, so
that h sums to 1. L = weight sum over g of KL(h_T || h_S). The networks may differ in width, depth
and order of neurons.

The gradient of this term only is made sparse in each weight tensor before it is added to the
others:
    g -> sign(g) max(|g| - t, 0),   t the `sparsity` quantile of |g| in that tensor
so that the prior changes few weights in a step.

NOT a reproduction. Liu et al.: arXiv:1911.05329; only the abstract was available. It states: the
distribution of parameters is the knowledge, aggregated over several layers, with penalised
gradients; a survey adds cross-entropy. Histogram, standardisation, groups and threshold are ours,
and so is every number in this file. The control experiment is an untrained teacher: if it helps as
much, no knowledge was transferred.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive, share
from doublure.core.protocols import Batch, FeatureNames, LossTerms, Outputs
from doublure.nets.features import architecture
from doublure.nets.network import freeze
from doublure.nets.stages import find_stages

CARD = Card(
    paper="Liu, Wen, Gao, Tao, Chen, Osa, Kato: Knowledge Representing: Efficient, Sparse "
    "Representation of Prior Knowledge for Knowledge Distillation, arXiv:1911.05329",
    needs=("weights",),
    reported={
        "CIFAR-100 accuracy, ResNet-32 -> ResNet-14, by a survey": 63.95,
        "the student alone": 58.65,
    },
)

# The histogram covers [-_REACH, _REACH], in standard deviations.
_REACH = 4.0


def soft_histogram(values: Float[Tensor, " count"], num_bins: int) -> Float[Tensor, " bins"]:
    """Return the shares of standardised values in bins on [-4, 4], differentiable in the values."""
    standard = (values - values.mean()) / values.std(correction=0).clamp(min=1e-12)
    gap = 2 * _REACH / (num_bins - 1)
    # Each value is split linearly between the two nearest bin centres.
    place = ((standard + _REACH) / gap).clamp(0, num_bins - 1)
    below = place.detach().floor().clamp(max=num_bins - 2)
    upper = place - below
    shares = torch.zeros(num_bins, dtype=values.dtype, device=values.device)
    shares = shares.index_add(0, below.long(), 1 - upper)
    return shares.index_add(0, below.long() + 1, upper) / len(values)


def prior_loss(
    student: Float[Tensor, " bins"], teacher: Float[Tensor, " bins"]
) -> Float[Tensor, ""]:
    """Return KL(teacher || student) of two histograms, in nats."""
    # A mixture with the uniform distribution keeps empty bins above 0.
    tiny = 1e-6
    q, p = ((1 - tiny) * h + tiny / len(h) for h in (student, teacher))
    return (p * (p / q).log()).sum()


def soft_threshold(gradient: Tensor, threshold: Tensor | float) -> Tensor:
    """Return the gradient with each magnitude reduced by the threshold, at least to 0."""
    return gradient.sign() * (gradient.abs() - threshold).clamp(min=0)


def sparsify(gradient: Tensor, sparsity: float) -> Tensor:
    """Return the gradient after a soft threshold that sets this share of its elements to 0."""
    kept = round((1 - sparsity) * gradient.numel())
    if kept == gradient.numel():
        return gradient
    if kept == 0:
        return torch.zeros_like(gradient)
    threshold = gradient.abs().flatten().kthvalue(gradient.numel() - kept).values
    return soft_threshold(gradient, threshold)


@dataclass(frozen=True, kw_only=True)
class KnowledgeRepresenting:
    """Objective: distributions of weights, per stage; a reconstruction with our own defaults.

    Args:
        weight: factor on the sum over stages.
        num_bins: number of bins of each histogram, which covers 4 standard deviations on each side.
        sparsity: share of the elements of each weight tensor that have no gradient from this term.
    """

    weight: float = 0.1
    num_bins: int = 33
    sparsity: float = 0.9

    def __post_init__(self) -> None:
        positive("weight", self.weight)
        share("sparsity", self.sparsity)
        if self.num_bins < 3:
            raise ValueError(f"num_bins must be at least 3, got {self.num_bins}")

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> "WeightPriorLoss":
        if teacher is None:
            raise ValueError(
                "knowledge representing needs a teacher's weights, but there is no teacher; "
                "use distill"
            )
        student_groups = stage_weights(student, example.views["student"])
        teacher_groups = stage_weights(teacher, example.views["teacher"])
        # If the numbers of stages differ, the last ones are compared.
        count = min(len(student_groups), len(teacher_groups))
        targets = [
            soft_histogram(_concatenate(group), self.num_bins).detach()
            for group in teacher_groups[-count:]
        ]
        return WeightPriorLoss(self, student_groups[-count:], targets)


def stage_weights(network: nn.Module, images: Any) -> list[list[nn.Parameter]]:
    """Return the weights of convolutions and linear layers by stage, without the classifier."""
    names = _layers_in_call_order(network, images)
    body = architecture(network)
    groups, start = [], 0
    for end in find_stages(network, images).ends:
        stop = round(end.depth * len(names))
        groups.append([body.get_submodule(name).weight for name in names[start:stop]])
        start = stop
    return [group for group in groups if group]  # type: ignore[misc]  # layers with weights only


class WeightPriorLoss:
    """The loss of the weight prior; it holds the student's own weights and the histograms."""

    features = FeatureNames()

    def __init__(
        self,
        settings: KnowledgeRepresenting,
        groups: Sequence[Sequence[nn.Parameter]],
        targets: Sequence[Tensor],
    ) -> None:
        self._settings, self._groups, self._targets = settings, groups, targets

    def parameters(self) -> Iterable[nn.Parameter]:
        return ()

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        losses = []
        for group, target in zip(self._groups, self._targets, strict=True):
            # A hook on a view of the parameter sees the gradient of this term alone.
            views = [parameter.view_as(parameter) for parameter in group]
            for view in views:
                if view.requires_grad:
                    view.register_hook(lambda g: sparsify(g, self._settings.sparsity))  # type: ignore[no-untyped-call]  # torch's
            histogram = soft_histogram(_concatenate(views), self._settings.num_bins)
            losses.append(prior_loss(histogram, target.to(histogram)))
        return {"weight_prior": self._settings.weight * torch.stack(losses).sum()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"this objective has no state, got {sorted(state)}")


def _concatenate(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([weight.flatten() for weight in weights])


def _layers_in_call_order(network: nn.Module, images: Any) -> list[str]:
    """Return the names of the layers with weights, in the order of the forward pass."""
    copy = freeze(network)
    names: list[str] = []
    for name, module in architecture(copy).named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            module.register_forward_hook(lambda *_, name=name: names.append(name))
    with torch.no_grad():
        copy(images)
    return names
