"""SRRL: a student's features that the teacher's own classifier reads like the teacher's.

g: a 1 x 1 convolution with BatchNorm (and ReLU, where the teacher's features are never negative) on
the student's last map, averaged over places; f_t the vector that enters the teacher's classifier W.
    feature     mean (g - f_t)^2              over batch and channels
    regression  mean (W(g) - W(f_t))^2        over batch and classes; W is frozen
L = w_f feature + w_r regression. The student's own classifier learns nothing from it: add another
term.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, LossTerms
from doublure.core.seeding import child
from doublure.nets.adapters import conv_adapter
from doublure.nets.features import FeatureRecorder, architecture, device_of
from doublure.nets.stages import find_layers, find_stages
from doublure.objectives.pairing import Compared, Pair, Pairing, Pairs

CARD = Card(
    paper="Yang, Martinez, Bulat, Tzimiropoulos: Knowledge Distillation via Softmax Regression "
    "Representation Learning, ICLR 2021",
    needs=("features",),
)


def squared_difference(
    student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]
) -> Float[Tensor, " batch"]:
    """Return the mean squared difference of each sample."""
    return F.mse_loss(student, teacher, reduction="none").mean(1)


class _Pooled(nn.Module):
    """The adapter with its average over places."""

    def __init__(self, inputs: int, outputs: int, rng: torch.Generator, *, relu: bool) -> None:
        super().__init__()
        self.conv = conv_adapter(inputs, outputs, rng)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        adapted: Tensor = self.relu(self.conv(features))
        return adapted.mean((2, 3), keepdim=True)


@dataclass(frozen=True, kw_only=True)
class SRRL:
    """Objective: features that the teacher's classifier reads as it reads its own.

    Args:
        feature_weight: of the features themselves.
        regression_weight: of what the teacher's classifier says of them.
        layer: the student's, whose map is adapted; its last stage where it is "".
    """

    feature_weight: float = 1.0
    regression_weight: float = 1.0
    layer: str = ""

    def __post_init__(self) -> None:
        positive("feature_weight", self.feature_weight)
        positive("regression_weight", self.regression_weight)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> Compared:
        if teacher is None:
            raise ValueError("srrl borrows the classifier of a teacher, but there is none")
        taught = find_stages(teacher, example.views["teacher"])
        if taught.classifier is None:
            raise ValueError(
                "srrl borrows the teacher's linear classifier, but its answer comes from no linear "
                "layer; use fit-nets"
            )
        view = example.views["student"]
        if self.layer:
            (ours,) = find_layers(student, view, (self.layer,))
        else:
            ours = find_stages(student, view).ends[-1].after_activation()
        with FeatureRecorder(teacher, (taught.features.name,)) as recorder, torch.no_grad():
            features = recorder.record(example.views["teacher"]).features[taught.features.name]
        adapter = _Pooled(
            ours.shape[0],
            taught.features.shape[0],
            child(rng, "adapter"),
            relu=bool((features >= 0).all()),
        )
        pairing = Pairing(pairs=(Pair(student=ours, teacher=taught.features),))
        # Not a part of the loss: its weights are the teacher's, and stay so.
        classifier = architecture(teacher).get_submodule(taught.classifier)

        def terms(pairs: Pairs) -> LossTerms:
            ((adapted, theirs),) = ((a.flatten(1), b.flatten(1)) for a, b in pairs)
            feature = squared_difference(adapted, theirs).mean()
            regression = squared_difference(classifier(adapted), classifier(theirs)).mean()
            return {
                "srrl_feature": self.feature_weight * feature,
                "srrl_regression": self.regression_weight * regression,
            }

        return Compared(pairing, terms, [adapter], resize=False).to(device_of(student))
