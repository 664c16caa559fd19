"""Contrastive representation distillation: classify pairs as same image or different images.

s, t: linear embeddings of the inputs of the classifiers, of unit length; two memory banks S and T
hold the last embeddings of every item seen. For item i and negatives j != i, with
P(a, b) = exp(<a, b> / tau) / Z,
    l(a, B) = - log h(P(a, B_i)) - sum_j log(1 - h(P(a, B_j))),    h(P) = P / (P + K / N)
    L = w mean [ l(s, T) + l(t, S) ]
K negatives, N items in the banks. Z is N times the mean of exp(<a, b> / tau) over the first batch,
for each of the two sides. The banks are moving averages: B_i <- unit(m B_i + (1 - m) b). The loss
is a scalar of the batch and the banks; it needs a fixed data set, whose items have `Batch.index`.

Negatives are items of other classes, as in the paper's main experiments. One draw of K items serves
the whole batch; for each sample, items of its own class have weight 0, and the weights of the
others are raised so that they sum to K.
Differs from the paper: the shared draw (memory K x dim instead of batch x K x dim); by default an
item enters the banks when it is first seen, and only such items are negatives, so N grows during
the first epoch. `beginning="random"` is the published version: every item up to the highest index
seen starts, in both banks, from a random vector of expected length 1.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from doublure.core.cards import Card
from doublure.core.checks import one_of, positive, share
from doublure.core.protocols import Batch, LossTerms, Outputs
from doublure.core.seeding import child
from doublure.nets.adapters import linear_adapter
from doublure.nets.features import device_of
from doublure.objectives.hard_labels import LabelSource, class_labels
from doublure.objectives.pairing import FEATURES, Layers, Pairing, pair_layers

CARD = Card(
    paper="Tian, Krishnan, Isola: Contrastive Representation Distillation, arXiv:1910.10699",
    needs=("features",),
    reported={
        "CIFAR-100 accuracy, wrn40-2 -> wrn16-2": 75.48,
        "soft targets, same pair": 74.92,
        "ImageNet top-1, ResNet-34 -> ResNet-18": 71.17,
    },
)
Negatives = Literal["other-classes", "other-items"]
Beginning = Literal["seen", "random"]
_EPS = 1e-7
_UNSEEN = -1


def contrastive_loss(
    positive_scores: Float[Tensor, " batch"],
    negative_scores: Float[Tensor, "batch negatives"],
    counts: Float[Tensor, "batch negatives"],
    num_items: int,
) -> Float[Tensor, " batch"]:
    """Return -log h(P+) - sum log(1 - h(P-)) of each sample.

    Args:
        positive_scores: P of each sample with its own embedding in the bank.
        counts: weight of each negative, K in total; 0 if it is not a negative of the sample.
    """
    # K / N. The bound keeps the logarithms finite for a sample without negatives.
    noise = (counts.sum(1) / num_items).clamp(min=_EPS)
    log_positive = (positive_scores / (positive_scores + noise + _EPS)).log()
    log_negative = (noise[:, None] / (negative_scores + noise[:, None] + _EPS)).log()
    return -log_positive - (counts * log_negative).sum(1)


def negative_counts(
    drawn: Int[Tensor, " negatives"],
    other: Bool[Tensor, "batch negatives"],
    num_negatives: int,
) -> Float[Tensor, "batch negatives"]:
    """Return the weight of each item of a shared draw for each sample, K in total.

    Args:
        drawn: number of times each item was drawn.
        other: whether the item is a negative of the sample.
    """
    counts = drawn * other
    return num_negatives * counts / counts.sum(1, keepdim=True).clamp(min=1)


class Banks:
    """The memory banks: last embeddings of student and teacher, class of each item, and Z / N.

    Args:
        momentum: weight m of the old embedding in the moving average.
        rng: draws the initial vectors; None starts each item from its first embedding.
    """

    def __init__(
        self, dim: int, momentum: float, device: torch.device, rng: torch.Generator | None = None
    ) -> None:
        self._momentum, self._rng = momentum, rng
        self.student = torch.zeros(0, dim, device=device)
        self.teacher = torch.zeros(0, dim, device=device)
        # The class of every item, or _UNSEEN.
        self.classes = torch.zeros(0, dtype=torch.int64, device=device)
        # Mean of exp(<a, b> / tau) for each side; 0 before the first batch.
        self.scale = torch.zeros(2, device=device)

    @property
    def items(self) -> Int[Tensor, " items"]:
        """The items that have an embedding."""
        if self._rng is not None:
            return torch.arange(len(self.classes), device=self.classes.device)
        return (self.classes != _UNSEEN).nonzero()[:, 0]

    def admit(
        self,
        index: Int[Tensor, " batch"],
        classes: Int[Tensor, " batch"],
        student: Tensor,
        teacher: Tensor,
    ) -> None:
        """Add the items that were not seen before."""
        missing = int(index.max()) + 1 - len(self.classes)
        if missing > 0:
            self.student, self.teacher = (
                torch.cat((bank, self._rows(missing, side)))
                for side, bank in (("student", self.student), ("teacher", self.teacher))
            )
            self.classes = torch.cat((self.classes, self.classes.new_full((missing,), _UNSEEN)))
        if self._rng is None:
            new = self.classes[index] == _UNSEEN
            self.student[index[new]] = student[new]
            self.teacher[index[new]] = teacher[new]
        self.classes[index] = classes

    def move(self, index: Int[Tensor, " batch"], student: Tensor, teacher: Tensor) -> None:
        """Update the moving average of these items' embeddings."""
        for bank, new in ((self.student, student), (self.teacher, teacher)):
            mixed = self._momentum * bank[index] + (1 - self._momentum) * new
            bank[index] = F.normalize(mixed)

    def _rows(self, count: int, side: str) -> Float[Tensor, "count dim"]:
        dim = self.student.shape[1]
        if self._rng is None:
            return self.student.new_zeros(count, dim)
        uniform = torch.rand(count, dim, generator=child(self._rng, side, len(self.classes)))
        # Uniform on [-sqrt(3 / dim), sqrt(3 / dim)]: expected squared length 1, as in the
        # authors' code.
        return ((2 * uniform - 1) * math.sqrt(3 / dim)).to(self.student)

    def state_dict(self) -> dict[str, Tensor]:
        names = ("student", "teacher", "classes", "scale")
        return {name: getattr(self, name).clone() for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value.clone().to(self.scale.device))


@dataclass(frozen=True, kw_only=True)
class CRD:
    """Objective: contrastive loss against memory banks of embeddings.

    Args:
        weight: factor on the loss.
        num_negatives: K, the number of negatives drawn at each step.
        temperature: tau, the divisor of the inner products.
        momentum: weight of the old embedding when the banks are updated.
        dim: size of the embeddings.
        negatives: "other-classes", as published, or "other-items", any other item.
        beginning: "seen": an item enters the banks when it is first seen; "random", as published:
            all items are in the banks from the start, with random vectors.
        of: source of the classes: "batch", the labels of the transfer set, or "teacher", the
            teacher's top-1.
        layers: layers to embed; the input of the classifier by default.
    """

    weight: float = 0.8
    num_negatives: int = 16_384
    temperature: float = 0.07
    momentum: float = 0.5
    dim: int = 128
    negatives: Negatives = "other-classes"
    beginning: Beginning = "seen"
    of: LabelSource = "batch"
    layers: Layers = FEATURES

    def __post_init__(self) -> None:
        for name in ("weight", "num_negatives", "temperature", "dim"):
            positive(name, getattr(self, name))
        share("momentum", self.momentum)
        one_of("negatives", self.negatives, get_args(Negatives))
        one_of("beginning", self.beginning, get_args(Beginning))
        one_of("labels", self.of, get_args(LabelSource))

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> "CRDLoss":
        _items(example)
        pairing = pair_layers(self.layers, student, teacher, example)
        if len(pairing.pairs) != 1:
            raise ValueError(f"crd compares one pair of layers, got {len(pairing.pairs)}")
        return CRDLoss(self, pairing, rng, device_of(student))


class CRDLoss:
    """The loss of CRD; its state is two embedding layers, two banks and the step count."""

    def __init__(
        self, settings: CRD, pairing: Pairing, rng: torch.Generator, device: torch.device
    ) -> None:
        (pair,) = pairing.pairs
        self.features, self.notes = pairing.features, pairing.notes
        self._settings, self._pairing, self._rng = settings, pairing, rng
        self._embeddings = nn.ModuleList(
            linear_adapter(layer.shape[0], settings.dim, child(rng, side))
            for side, layer in (("student", pair.student), ("teacher", pair.teacher))
        ).to(device)
        bank_rng = child(rng, "banks") if settings.beginning == "random" else None
        self.banks = Banks(settings.dim, settings.momentum, device, bank_rng)
        self._step = 0

    def parameters(self) -> Iterable[nn.Parameter]:
        return self._embeddings.parameters()

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        index = _items(batch)
        vectors = self._pairing.vectors(student, teacher)[0]
        student_units, teacher_units = (
            F.normalize(embed(x)) for embed, x in zip(self._embeddings, vectors, strict=True)
        )
        with torch.no_grad():
            classes = self._classes(index, teacher, batch)
            self.banks.admit(index, classes, student_units, teacher_units)
            held = self.banks.items
            items, drawn = self._draw(held)
            others, own = (items, index) if self._any else (self.banks.classes[items], classes)
            counts = negative_counts(drawn, others != own[:, None], self._settings.num_negatives)
        losses = [
            self._side(0, student_units, self.banks.teacher, index, items, counts, len(held)),
            self._side(1, teacher_units, self.banks.student, index, items, counts, len(held)),
        ]
        with torch.no_grad():
            self.banks.move(index, student_units, teacher_units)
        self._step += 1
        return {"crd": self._settings.weight * torch.stack(losses).sum()}

    @property
    def _any(self) -> bool:
        return self._settings.negatives == "other-items"

    def _classes(self, index: Tensor, teacher: Outputs, batch: Batch) -> Tensor:
        if self._any:
            return torch.zeros_like(index)
        return class_labels(self._settings.of, teacher, batch)

    def _draw(self, held: Tensor) -> tuple[Tensor, Tensor]:
        """Return the items of this step's draw, once each, and how often each was drawn."""
        places = torch.randint(
            len(held),
            (self._settings.num_negatives,),
            generator=child(self._rng, "negatives", self._step),
        )
        # In a set smaller than K most items are drawn several times. Each inner product is computed
        # once and weighted by its count.
        drawn = torch.bincount(places, minlength=len(held)).to(held.device)
        return held[drawn > 0], drawn[drawn > 0]

    def _side(
        self,
        side: int,
        embedded: Tensor,
        bank: Tensor,
        index: Tensor,
        items: Tensor,
        counts: Tensor,
        num_items: int,
    ) -> Tensor:
        temperature = self._settings.temperature
        own = ((embedded * bank[index]).sum(1) / temperature).exp()
        others = (embedded @ bank[items].T / temperature).exp()
        scale = self.banks.scale
        if self._step == 0:
            # Z / N is estimated on the first batch and then stays constant.
            total = own + (counts * others).sum(1)
            scale[side] = (total.sum() / (len(own) + counts.sum())).detach()
        normaliser = scale[side].clone() * num_items
        return contrastive_loss(own / normaliser, others / normaliser, counts, num_items).mean()

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "banks": self.banks.state_dict(),
            "embeddings": self._embeddings.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self.banks.load_state_dict(state["banks"])
        self._embeddings.load_state_dict(state["embeddings"])


def _items(batch: Batch) -> Tensor:
    if batch.index is None:
        raise ValueError(
            "crd stores an embedding for every item of a fixed set, but the items of this transfer "
            "set have no index; use images (--method surrogate-kd --transfer FOLDER), or another "
            "objective"
        )
    return batch.index


PUBLISHED = {"cifar100-authors": CRD(beginning="random")}
