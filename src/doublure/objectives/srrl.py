"""SRRL: match the teacher's features, and its classifier's outputs on the student's features.

g: a 1 x 1 convolution with BatchNorm (and ReLU, if the teacher's features are never negative) on
the student's last map, averaged over positions; f_t is the input of the teacher's classifier W.
    feature     mean (g - f_t)^2              over batch and channels
    regression  mean (W(g) - W(f_t))^2        over batch and classes; W is frozen
L = w_f feature + w_r regression. This loss does not train the student's own classifier: add a term
that does.
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
from doublure.objectives.pairing import Pair, PairedLoss, Pairing, Pairs

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


class _PooledAdapter(nn.Module):
    """The adapter, followed by the mean over positions."""

    def __init__(self, inputs: int, outputs: int, rng: torch.Generator, *, relu: bool) -> None:
        super().__init__()
        self.conv = conv_adapter(inputs, outputs, rng)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        adapted: Tensor = self.relu(self.conv(features))
        return adapted.mean((2, 3), keepdim=True)


@dataclass(frozen=True, kw_only=True)
class SRRL:
    """Objective: the teacher's features, and its classifier's outputs on the student's features.

    Args:
        feature_weight: weight of the features.
        regression_weight: weight of the outputs of the teacher's classifier.
        layer: student layer whose map is adapted; "" is its last stage.
    """

    feature_weight: float = 1.0
    regression_weight: float = 1.0
    layer: str = ""

    def __post_init__(self) -> None:
        positive("feature_weight", self.feature_weight)
        positive("regression_weight", self.regression_weight)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> PairedLoss:
        if teacher is None:
            raise ValueError("srrl needs the classifier of a teacher, but there is no teacher")
        teacher_stages = find_stages(teacher, example.views["teacher"])
        if teacher_stages.classifier is None:
            raise ValueError(
                "srrl needs a linear classifier, but the last layer of the teacher is not linear; "
                "use fit-nets"
            )
        view = example.views["student"]
        if self.layer:
            (student_layer,) = find_layers(student, view, (self.layer,))
        else:
            student_layer = find_stages(student, view).ends[-1].after_activation()
        with FeatureRecorder(teacher, (teacher_stages.features.name,)) as recorder, torch.no_grad():
            features = recorder.record(example.views["teacher"]).features[
                teacher_stages.features.name
            ]
        adapter = _PooledAdapter(
            student_layer.shape[0],
            teacher_stages.features.shape[0],
            child(rng, "adapter"),
            relu=bool((features >= 0).all()),
        )
        pairing = Pairing(pairs=(Pair(student=student_layer, teacher=teacher_stages.features),))
        # Not a submodule of the loss: its weights are the teacher's and stay frozen.
        classifier = architecture(teacher).get_submodule(teacher_stages.classifier)

        def terms(pairs: Pairs) -> LossTerms:
            ((adapted, teacher_features),) = ((a.flatten(1), b.flatten(1)) for a, b in pairs)
            feature = squared_difference(adapted, teacher_features).mean()
            regression = squared_difference(
                classifier(adapted), classifier(teacher_features)
            ).mean()
            return {
                "srrl_feature": self.feature_weight * feature,
                "srrl_regression": self.regression_weight * regression,
            }

        return PairedLoss(pairing, terms, [adapter], resize=False).to(device_of(student))
