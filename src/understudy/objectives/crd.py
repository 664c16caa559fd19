"""Contrastive representation distillation: tell the pair of one image from pairs of two.

s, t: linear embeddings of the vectors that enter the classifiers, of unit length; banks hold the
last embeddings of every item seen, S and T. For item i and negatives j != i, with
P(a, b) = exp(<a, b> / tau) / Z,
    l(a, B) = - log h(P(a, B_i)) - sum_j log(1 - h(P(a, B_j))),    h(P) = P / (P + K / N)
    L = w mean [ l(s, T) + l(t, S) ]
K negatives, N items in the banks. Z is N times the mean of exp(<a, b> / tau) over the first batch,
for each side. Banks move: B_i <- unit(m B_i + (1 - m) b). The loss is a scalar of the batch and the
banks; it needs a fixed set, whose items are known by `Batch.index`.
Differs from the paper: the negatives of a step are shared by its batch (memory K x dim and not
batch x K x dim); an item enters the banks when it is first seen, and only such items are negatives,
so N grows over the first epoch; negatives are of any class but never the item itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from understudy.cards import Card
from understudy.checks import positive, share
from understudy.nets.adapters import linear_adapter
from understudy.nets.taps import device_of
from understudy.objectives.pairing import FEATURES, Layers, Pairing, pair_layers
from understudy.protocols import Batch, Terms, Trace
from understudy.seeding import child

CARD = Card(
    paper="Tian, Krishnan, Isola: Contrastive Representation Distillation, arXiv:1910.10699",
    needs=("features",),
    reported={
        "CIFAR-100 accuracy, wrn40-2 -> wrn16-2": 75.48,
        "soft targets, same pair": 74.92,
        "ImageNet top-1, ResNet-34 -> ResNet-18": 71.17,
    },
)
_EPS = 1e-7


def contrastive_loss(
    positive_scores: Float[Tensor, " batch"],
    negative_scores: Float[Tensor, "batch negatives"],
    counted: Float[Tensor, "batch negatives"],
    num_items: int,
) -> Float[Tensor, " batch"]:
    """Return -log h(P+) - sum log(1 - h(P-)) of each sample.

    Args:
        positive_scores: P of each sample with itself.
        counted: 1 where the negative is another item than the sample, else 0.
    """
    noise = negative_scores.shape[1] / num_items
    found = (positive_scores / (positive_scores + noise + _EPS)).log()
    refused = (noise / (negative_scores + noise + _EPS)).log()
    return -found - (counted * refused).sum(1)


class Banks:
    """The last embeddings of student and teacher by item, and what scales their products.

    Args:
        momentum: share of the old embedding that stays.
    """

    def __init__(self, dim: int, momentum: float, device: torch.device) -> None:
        self._momentum = momentum
        self.student = torch.zeros(0, dim, device=device)
        self.teacher = torch.zeros(0, dim, device=device)
        self.seen = torch.zeros(0, dtype=torch.bool, device=device)
        # Mean of exp(<a, b> / tau), by side; 0 until the first batch was compared.
        self.scale = torch.zeros(2, device=device)

    def admit(self, index: Int[Tensor, " batch"], student: Tensor, teacher: Tensor) -> None:
        """Give a place to the items that were never seen."""
        missing = int(index.max()) + 1 - len(self.seen)
        if missing > 0:
            rows = self.student.new_zeros(missing, self.student.shape[1])
            self.student, self.teacher = (
                torch.cat((bank, rows)) for bank in (self.student, self.teacher)
            )
            self.seen = torch.cat((self.seen, self.seen.new_zeros(missing)))
        new = ~self.seen[index]
        self.student[index[new]] = student[new]
        self.teacher[index[new]] = teacher[new]
        self.seen[index] = True

    def move(self, index: Int[Tensor, " batch"], student: Tensor, teacher: Tensor) -> None:
        """Move the embeddings of these items towards the new ones."""
        for bank, now in ((self.student, student), (self.teacher, teacher)):
            mixed = self._momentum * bank[index] + (1 - self._momentum) * now
            bank[index] = F.normalize(mixed)

    def state_dict(self) -> dict[str, Tensor]:
        names = ("student", "teacher", "seen", "scale")
        return {name: getattr(self, name).clone() for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value.clone().to(self.scale.device))


@dataclass(frozen=True, kw_only=True)
class Crd:
    """Objective: contrast with banks of what was seen.

    Args:
        weight: of the loss.
        num_negatives: K, drawn anew at each step.
        temperature: tau, by which products of embeddings are divided.
        momentum: share of an item's old embedding that stays in the banks.
        dim: of the embeddings.
        layers: which are embedded; the vector that enters the classifier by default.
    """

    weight: float = 0.8
    num_negatives: int = 16_384
    temperature: float = 0.07
    momentum: float = 0.5
    dim: int = 128
    layers: Layers = FEATURES

    def __post_init__(self) -> None:
        for name in ("weight", "num_negatives", "temperature", "dim"):
            positive(name, getattr(self, name))
        share("momentum", self.momentum)

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> "Contrast":
        _items(example)
        pairing = pair_layers(self.layers, student, teacher, example)
        if len(pairing.pairs) != 1:
            raise ValueError(f"crd embeds one pair of layers, got {len(pairing.pairs)}")
        return Contrast(self, pairing, rng, device_of(student))


class Contrast:
    """CRD at work: two embeddings, two banks, and the number of steps taken."""

    def __init__(
        self, settings: Crd, pairing: Pairing, rng: torch.Generator, device: torch.device
    ) -> None:
        (pair,) = pairing.pairs
        self.taps, self.notes = pairing.taps, pairing.notes
        self._settings, self._pairing, self._rng = settings, pairing, rng
        self._embeddings = nn.ModuleList(
            linear_adapter(layer.shape[0], settings.dim, child(rng, side))
            for side, layer in (("student", pair.student), ("teacher", pair.teacher))
        ).to(device)
        self.banks = Banks(settings.dim, settings.momentum, device)
        self._step = 0

    def parameters(self) -> Iterable[nn.Parameter]:
        return self._embeddings.parameters()

    def __call__(self, student: Trace, teacher: Trace | None, batch: Batch) -> Terms:
        assert teacher is not None
        index = _items(batch)
        vectors = self._pairing.vectors(student, teacher)[0]
        ours, theirs = (
            F.normalize(embed(x)) for embed, x in zip(self._embeddings, vectors, strict=True)
        )
        banks = self.banks
        with torch.no_grad():
            banks.admit(index, ours, theirs)
            negatives = self._draw(index.device)
            counted = (negatives[None] != index[:, None]).to(ours.dtype)
        losses = [
            self._side(0, ours, banks.teacher, index, negatives, counted),
            self._side(1, theirs, banks.student, index, negatives, counted),
        ]
        with torch.no_grad():
            banks.move(index, ours, theirs)
        self._step += 1
        return {"crd": self._settings.weight * torch.stack(losses).sum()}

    def _draw(self, device: torch.device) -> Tensor:
        """Return the items that are this step's negatives, drawn with repetition."""
        seen = self.banks.seen.nonzero()[:, 0]
        places = torch.randint(
            len(seen),
            (self._settings.num_negatives,),
            generator=child(self._rng, "negatives", self._step),
        )
        return seen[places.to(device)]

    def _side(
        self,
        side: int,
        embedded: Tensor,
        bank: Tensor,
        index: Tensor,
        negatives: Tensor,
        counted: Tensor,
    ) -> Tensor:
        temperature = self._settings.temperature
        own = ((embedded * bank[index]).sum(1) / temperature).exp()
        others = (embedded @ bank[negatives].T / temperature).exp()
        scale = self.banks.scale
        if self._step == 0:
            scale[side] = torch.cat((own[:, None], others), 1).detach().mean()
        num_items = int(self.banks.seen.sum())
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
