"""Knowledge representing, reconstructed: the distribution of the teacher's weights as a prior.

For each group g of layers (those up to a stage's end), of either network: all weights of its
convolutions and linear layers, standardised, in a soft histogram of M bins on [-4, 4]
    h_m = mean over w of max(0, 1 - |u - c_m| / d),   u = (w - mean) / std,
c_m the centres, d their distance; values beyond the ends count in the last bins, so that h sums to
1. L = weight sum over g of KL(h_T || h_S). Widths, depths and orders of neurons may differ.

The gradient of this term, not of others, is made sparse in each weight tensor before it is added:
    g -> sign(g) max(|g| - t, 0),   t the `sparsity` quantile of |g| in that tensor
so that the prior moves few weights at a time.

NOT a reproduction. Liu et al.: arXiv:1911.05329, of which only the abstract was to be had. It says:
the distribution of parameters is the knowledge, aggregated over several layers, with penalised
gradients; a survey adds cross-entropy. Histogram, standardising, groups and threshold are ours, and
so is every number that this file gives. The control that counts is a teacher never trained: where
it does as much, no knowledge was passed on.
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

_REACH = 4.0


def soft_histogram(values: Float[Tensor, " count"], num_bins: int) -> Float[Tensor, " bins"]:
    """Return the shares of standardised values in bins on [-4, 4], differentiable in the values."""
    standard = (values - values.mean()) / values.std(correction=0).clamp(min=1e-12)
    gap = 2 * _REACH / (num_bins - 1)
    place = ((standard + _REACH) / gap).clamp(0, num_bins - 1)
    below = place.detach().floor().clamp(max=num_bins - 2)
    upper = place - below
    shares = torch.zeros(num_bins, dtype=values.dtype, device=values.device)
    shares = shares.index_add(0, below.long(), 1 - upper)
    return shares.index_add(0, below.long() + 1, upper) / len(values)


def prior_loss(
    student: Float[Tensor, " bins"], teacher: Float[Tensor, " bins"]
) -> Float[Tensor, ""]:
    """Return KL(teacher || student) of two histograms, in nats; empty bins are held above 0."""
    tiny = 1e-6
    ours, theirs = ((1 - tiny) * h + tiny / len(h) for h in (student, teacher))
    return (theirs * (theirs / ours).log()).sum()


def soft_threshold(gradient: Tensor, threshold: Tensor | float) -> Tensor:
    """Return the gradient drawn towards zero by the threshold; what is smaller becomes zero."""
    return gradient.sign() * (gradient.abs() - threshold).clamp(min=0)


def sparsified(gradient: Tensor, sparsity: float) -> Tensor:
    """Return the gradient with this share of its elements made zero, and the others drawn in."""
    kept = round((1 - sparsity) * gradient.numel())
    if kept == gradient.numel():
        return gradient
    if kept == 0:
        return torch.zeros_like(gradient)
    largest_left_out = gradient.abs().flatten().kthvalue(gradient.numel() - kept).values
    return soft_threshold(gradient, largest_left_out)


@dataclass(frozen=True, kw_only=True)
class KnowledgeRepresenting:
    """Objective: the weights' distributions, stage by stage; a reconstruction. Defaults are ours.

    Args:
        weight: of the sum over stages.
        num_bins: of each histogram, on four deviations either way.
        sparsity: share of each weight tensor that this term leaves alone in a step.
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
    ) -> "Representing":
        if teacher is None:
            raise ValueError(
                "knowledge representing reads a teacher's weights, but there is none; use distill"
            )
        ours = stage_weights(student, example.views["student"])
        theirs = stage_weights(teacher, example.views["teacher"])
        # Of networks with unequal numbers of stages the last ones are compared.
        count = min(len(ours), len(theirs))
        targets = [
            soft_histogram(_joined(group), self.num_bins).detach() for group in theirs[-count:]
        ]
        return Representing(self, ours[-count:], targets)


def stage_weights(network: nn.Module, images: Any) -> list[list[nn.Parameter]]:
    """Return the weights of convolutions and linear layers by stage, without the classifier's."""
    names = _called(network, images)
    body = architecture(network)
    groups, start = [], 0
    for end in find_stages(network, images).ends:
        stop = round(end.depth * len(names))
        groups.append([body.get_submodule(name).weight for name in names[start:stop]])
        start = stop
    return [group for group in groups if group]  # type: ignore[misc]  # of layers with weights


class Representing:
    """The prior at work; it holds nothing but the student's own weights and the histograms."""

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
            views = [parameter.view_as(parameter) for parameter in group]
            for view in views:
                if view.requires_grad:
                    view.register_hook(lambda g: sparsified(g, self._settings.sparsity))  # type: ignore[no-untyped-call]  # torch's
            ours = soft_histogram(_joined(views), self._settings.num_bins)
            losses.append(prior_loss(ours, target.to(ours)))
        return {"weight_prior": self._settings.weight * torch.stack(losses).sum()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"this objective has no state, got {sorted(state)}")


def _joined(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([weight.flatten() for weight in weights])


def _called(network: nn.Module, images: Any) -> list[str]:
    """Return the names of the layers with weights in the order in which they answer."""
    copy = freeze(network)
    names: list[str] = []
    for name, module in architecture(copy).named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            module.register_forward_hook(lambda *_, name=name: names.append(name))
    with torch.no_grad():
        copy(images)
    return names
