"""Attention transfer: look where the teacher looks, at the end of every stage.

f is the map after the activation of a stage;
Q(f) = mean_c |f_c|^p, a map of energies over places; a(f) = Q / ||Q||_2 of each sample, flattened;
L = w (n / N) sum over stages of mean (a(f_s) - a(f_t))^2 over batch and places, n the places of the
last map, for a weight w that was stated where it has N. The larger map is averaged down to the
smaller, after the energies were taken.

Maps of unit length are at most sqrt 2 apart, so that their mean over n places is at most 2 / n: a
weight of 1000 is one of 16 for the distances of 8 x 8 maps, with which networks for 32 x 32 images
end, and would be one of 250 for those of 2 x 2.
Differs from the paper: squared differences averaged over places, as its own code and the public
benchmarks do, where the paper writes the plain norm; the weight follows the size of the maps, and
where they have the size it was stated for, the loss is that of the public benchmarks. Of
pre-activation networks (WRN), whose stages end in a sum, we compare what leaves the next
activation, the authors' code the sum.
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
from doublure.objectives.pairing import STAGES, Compared, Layers, Pairs, pair_layers

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
    ours, theirs = to_smaller(attention_map(student, power), attention_map(teacher, power))
    ours, theirs = F.normalize(ours.flatten(1)), F.normalize(theirs.flatten(1))
    return (ours - theirs).square().mean(1)


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer:
    """Objective: attention maps of all stages.

    Args:
        weight: of the mean over places, summed over stages, where the last map has `places`.
        places: of the last map that the weight was stated for; it shrinks and grows with the map.
        power: p, to which activations are raised.
        layers: which are compared; the ends of all stages by default.
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
    ) -> Compared:
        return Compared(pair_layers(self.layers, student, teacher, example), self._terms)

    def _terms(self, pairs: Pairs) -> LossTerms:
        losses = [attention_loss(*pair, self.power).mean() for pair in pairs]
        ours, theirs = pairs[-1]
        places = min(ours.shape[2], theirs.shape[2]) * min(ours.shape[3], theirs.shape[3])
        weight = self.weight * places / self.places
        return {"attention": weight * torch.stack(losses).sum()}


PUBLISHED = {"cifar100-benchmarks": AttentionTransfer()}
