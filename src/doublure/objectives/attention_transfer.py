"""Attention transfer: match the teacher's spatial attention maps at the end of every stage.

f is the map after the activation of a stage;
Q(f) = mean_c |f_c|^p, the energy at each position; a(f) = Q / ||Q||_2 of each sample, flattened;
L = w (n / N) sum over stages of mean (a(f_s) - a(f_t))^2 over batch and positions. n is the number
of positions of the last map; N is the number for which the weight w was published. The larger map
is average-pooled to the smaller after the energies are computed.

Why the factor n / N: two unit vectors are at most sqrt 2 apart for maps that are not negative, so
the mean over n positions is at most 2 / n. A weight of 1000 on 8 x 8 maps, the last maps of
networks for 32 x 32 images, is a weight of 16 on the squared distance; on 2 x 2 maps it would be a
weight of 250.
Differs from the paper: squared differences averaged over positions, as in the authors' code and the
public benchmarks, where the paper has the norm itself; the weight scales with the size of the maps,
and equals the public benchmarks' weight at the size for which it was published. In pre-activation
networks (WRN) a stage ends in a sum: we compare the output of the next activation, the authors'
code compares the sum.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms
from doublure.nets.adapters import to_smaller
from doublure.objectives.pairing import STAGES, Layers, PairedLoss, Pairs, pair_layers

CARD = Card(
    paper="Zagoruyko, Komodakis: Paying More Attention to Attention, arXiv:1612.03928",
    needs=("features",),
    reported={
        "ImageNet top-1, ResNet-34 -> ResNet-18": 70.70,
        "the same, re-run by torchdistill": 70.90,
        "CIFAR-100 accuracy, wrn40-2 -> wrn16-2, re-run by RepDistiller": 74.08,
    },
)


def attention_map(
    features: Float[Tensor, "batch channels height width"], power: float
) -> Float[Tensor, "batch 1 height width"]:
    """Return the mean over channels of |f|^power."""
    return features.abs().pow(power).mean(1, keepdim=True)


def attention_loss(
    student: Float[Tensor, "batch inputs h w"],
    teacher: Float[Tensor, "batch outputs y x"],
    power: float,
) -> Float[Tensor, " batch"]:
    """Return the mean squared difference of each sample's normalised attention maps."""
    student_map, teacher_map = to_smaller(
        attention_map(student, power), attention_map(teacher, power)
    )
    student_map, teacher_map = (
        F.normalize(student_map.flatten(1)),
        F.normalize(teacher_map.flatten(1)),
    )
    return (student_map - teacher_map).square().mean(1)


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer:
    """Objective: attention maps of all stages.

    Args:
        weight: factor on the mean over positions, summed over stages, if the last map has `places`
            positions; it scales with the number of positions.
        places: number of positions of the last map for which the weight was published.
        power: exponent p of the activations.
        layers: layers to compare; the ends of all stages by default.
    """

    weight: float = 1000.0
    places: int = 64
    power: float = 2.0
    layers: Layers = STAGES

    def __post_init__(self) -> None:
        for name in ("weight", "places", "power"):
            positive(name, getattr(self, name))

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        return PairedLoss(pair_layers(self.layers, student, teacher, example), self._terms)

    def _terms(self, pairs: Pairs) -> LossTerms:
        losses = [attention_loss(*pair, self.power).mean() for pair in pairs]
        student, teacher = pairs[-1]
        places = min(student.shape[2], teacher.shape[2]) * min(student.shape[3], teacher.shape[3])
        weight = self.weight * places / self.places
        return {"attention": weight * torch.stack(losses).sum()}


PUBLISHED = {"cifar100-benchmarks": AttentionTransfer()}
