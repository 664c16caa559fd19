"""Contrastive representation distillation: tell the pair of one image from pairs of two.

s, t: linear embeddings of the vectors that enter the classifiers, of unit length; banks hold the
last embeddings of every item seen, S and T. For item i and negatives j != i, with
P(a, b) = exp(<a, b> / tau) / Z,
    l(a, B) = - log h(P(a, B_i)) - sum_j log(1 - h(P(a, B_j))),    h(P) = P / (P + K / N)
    L = w mean [ l(s, T) + l(t, S) ]
K negatives, N items in the banks. Z is N times the mean of exp(<a, b> / tau) over the first batch,
for each side. Banks move: B_i <- unit(m B_i + (1 - m) b). The loss is a scalar of the batch and the
banks; it needs a fixed set, whose items are known by `Batch.index`.

Negatives are items of other classes, as the paper's main experiments have them. One draw of K items
serves the whole batch; those of a sample's own class are left out, and the others count more in
return, K in all.
Differs from the paper: the shared draw (memory K x dim and not batch x K x dim); by default an item
enters the banks when it is first seen, and only such items are negatives, so N grows over the first
epoch. `beginning="random"` is the published one: every item up to the highest index seen has a
random vector of expected length 1, in either bank, until its own embeddings have moved it.
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
from doublure.objectives.hard_labels import Whose, class_labels
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
    counted: Float[Tensor, "batch negatives"],
    num_items: int,
) -> Float[Tensor, " batch"]:
    """Return -log h(P+) - sum log(1 - h(P-)) of each sample.

    Args:
        positive_scores: P of each sample with itself.
        counted: how often each negative counts, K in all; 0 where it is none of the sample's.
    """
    # Where there is no negative at all, 0 counts of a finite number.
    noise = (counted.sum(1) / num_items).clamp(min=_EPS)
    found = (positive_scores / (positive_scores + noise + _EPS)).log()
    refused = (noise[:, None] / (negative_scores + noise[:, None] + _EPS)).log()
    return -found - (counted * refused).sum(1)


def negative_counts(
    drawn: Int[Tensor, " negatives"],
    other: Bool[Tensor, "batch negatives"],
    num_negatives: int,
) -> Float[Tensor, "batch negatives"]:
    """Return how often each item of a shared draw counts for each sample: K in all, or never.

    Args:
        drawn: how often each item was drawn.
        other: whether it is a negative of the sample.
    """
    counted = drawn * other
    return num_negatives * counted / counted.sum(1, keepdim=True).clamp(min=1)


class Banks:
    """The last embeddings of student and teacher by item, its class, and what scales products.

    Args:
        momentum: share of the old embedding that stays.
        rng: of the vectors that items begin with; None lets them begin as they are first seen.
    """

    def __init__(
        self, dim: int, momentum: float, device: torch.device, rng: torch.Generator | None = None
    ) -> None:
        self._momentum, self._rng = momentum, rng
        self.student = torch.zeros(0, dim, device=device)
        self.teacher = torch.zeros(0, dim, device=device)
        # Of every item, or _UNSEEN.
        self.classes = torch.zeros(0, dtype=torch.int64, device=device)
        # Mean of exp(<a, b> / tau), by side; 0 until the first batch was compared.
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
        """Give a place to the items that were never seen."""
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
        """Move the embeddings of these items towards the new ones."""
        for bank, now in ((self.student, student), (self.teacher, teacher)):
            mixed = self._momentum * bank[index] + (1 - self._momentum) * now
            bank[index] = F.normalize(mixed)

    def _rows(self, count: int, side: str) -> Float[Tensor, "count dim"]:
        dim = self.student.shape[1]
        if self._rng is None:
            return self.student.new_zeros(count, dim)
        numbers = torch.rand(count, dim, generator=child(self._rng, side, len(self.classes)))
        # Of expected squared length 1, as the authors' code draws them.
        return ((2 * numbers - 1) * math.sqrt(3 / dim)).to(self.student)

    def state_dict(self) -> dict[str, Tensor]:
        names = ("student", "teacher", "classes", "scale")
        return {name: getattr(self, name).clone() for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value.clone().to(self.scale.device))


@dataclass(frozen=True, kw_only=True)
class CRD:
    """Objective: contrast with banks of what was seen.

    Args:
        weight: of the loss.
        num_negatives: K, drawn anew at each step.
        temperature: tau, by which products of embeddings are divided.
        momentum: share of an item's old embedding that stays in the banks.
        dim: of the embeddings.
        negatives: items of other classes, as published, or any other items.
        beginning: an item is in the banks once it is "seen"; or, as published, all of them are
            from the start, by "random" vectors.
        of: whose classes: "batch", the labels of the transfer set; "teacher" its top-1.
        layers: which are embedded; the vector that enters the classifier by default.
    """

    weight: float = 0.8
    num_negatives: int = 16_384
    temperature: float = 0.07
    momentum: float = 0.5
    dim: int = 128
    negatives: Negatives = "other-classes"
    beginning: Beginning = "seen"
    of: Whose = "batch"
    layers: Layers = FEATURES

    def __post_init__(self) -> None:
        for name in ("weight", "num_negatives", "temperature", "dim"):
            positive(name, getattr(self, name))
        share("momentum", self.momentum)
        one_of("negatives", self.negatives, get_args(Negatives))
        one_of("beginning", self.beginning, get_args(Beginning))
        one_of("labels", self.of, get_args(Whose))

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> "CRDLoss":
        _items(example)
        pairing = pair_layers(self.layers, student, teacher, example)
        if len(pairing.pairs) != 1:
            raise ValueError(f"crd embeds one pair of layers, got {len(pairing.pairs)}")
        return CRDLoss(self, pairing, rng, device_of(student))


class CRDLoss:
    """CRD at work: two embeddings, two banks, and the number of steps taken."""

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
        begun = child(rng, "banks") if settings.beginning == "random" else None
        self.banks = Banks(settings.dim, settings.momentum, device, begun)
        self._step = 0

    def parameters(self) -> Iterable[nn.Parameter]:
        return self._embeddings.parameters()

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        index = _items(batch)
        vectors = self._pairing.vectors(student, teacher)[0]
        ours, theirs = (
            F.normalize(embed(x)) for embed, x in zip(self._embeddings, vectors, strict=True)
        )
        with torch.no_grad():
            classes = self._classes(index, teacher, batch)
            self.banks.admit(index, classes, ours, theirs)
            held = self.banks.items
            items, drawn = self._draw(held)
            others, own = (items, index) if self._any else (self.banks.classes[items], classes)
            counted = negative_counts(drawn, others != own[:, None], self._settings.num_negatives)
        losses = [
            self._side(0, ours, self.banks.teacher, index, items, counted, len(held)),
            self._side(1, theirs, self.banks.student, index, items, counted, len(held)),
        ]
        with torch.no_grad():
            self.banks.move(index, ours, theirs)
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
        # Of a set smaller than K most items are drawn several times: their products are taken once.
        drawn = torch.bincount(places, minlength=len(held)).to(held.device)
        return held[drawn > 0], drawn[drawn > 0]

    def _side(
        self,
        side: int,
        embedded: Tensor,
        bank: Tensor,
        index: Tensor,
        items: Tensor,
        counted: Tensor,
        num_items: int,
    ) -> Tensor:
        temperature = self._settings.temperature
        own = ((embedded * bank[index]).sum(1) / temperature).exp()
        others = (embedded @ bank[items].T / temperature).exp()
        scale = self.banks.scale
        if self._step == 0:
            total = own + (counted * others).sum(1)
            scale[side] = (total.sum() / (len(own) + counted.sum())).detach()
        normaliser = scale[side].clone() * num_items
        return contrastive_loss(own / normaliser, others / normaliser, counted, num_items).mean()

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
            "crd remembers every item of a fixed set, but this transfer set does not say which "
            "item an image is; use images (--method surrogate-kd --transfer FOLDER), or another "
            "objective"
        )
    return batch.index


PUBLISHED = {"cifar100-authors": CRD(beginning="random")}
