"""Return to go: the effect of a token of the student's sentence on the later ones.

Of a sequence model, KL(q(y|x) || p(y|x)) = sum_t E_{y<t ~ q} KL(q_t || p_t). Its gradient is

    E_{y ~ q} sum_t [ grad KL_t + grad log q(y_t | y_<t) * R_t ],    R_t = sum_{s > t} KL_s

on sentences sampled from the student (`tasks.translation.on_policy`). Reverse divergence
(`objectives.divergence`) is the first part, often used alone (arXiv:2306.13649); this is the
second, to be added to it. A baseline keeps its mean and reduces its variance: here, the mean R_t of
the batch's other sentences. On other sentences it is zero.

Short sentences have a small divergence: a student that cannot follow its teacher therefore learns
almost empty sentences. `per_token` divides R_t by the number of tokens after t, which is no longer
that gradient (as in arXiv:2306.08543, as far as is known). Differs from the paper: only its
abstract was available; the term is derived from the equation above.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, Outputs
from doublure.objectives.divergence import divergence_loss
from doublure.tasks.translation.contract import OWN_SENTENCES

CARD = Card(
    paper="Sun, Cross: Learn to Talk via Proactive Knowledge Transfer, arXiv:2008.10077",
    needs=("logits",),
)


def returns_to_go(
    costs: Float[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """Return the sum of the losses of the tokens after each one."""
    costs = costs * mask
    return costs.flip(1).cumsum(1).flip(1) - costs


def tokens_to_go(mask: Bool[Tensor, "batch length"]) -> Int64[Tensor, "batch length"]:
    """Return the number of tokens after each one; 1 if there is none, as a divisor."""
    left = mask.long().flip(1).cumsum(1).flip(1) - mask.long()
    return left.clamp(min=1)


def others_mean(
    values: Float[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """Return the mean over the other sentences at each position; 0 if there are none."""
    count = mask.sum(0) - mask.long()
    return ((values * mask).sum(0) - values * mask) / count.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class ReturnToGo:
    """Objective: the policy gradient of later reverse divergence.

    Args:
        temperature: temperature of both networks' logits, as in the divergence added to it.
        per_token: divide by the number of later tokens; False is the exact gradient.
    """

    temperature: float = 1.0
    per_token: bool = True

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)

    def __call__(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if batch.labels is None or batch.mask is None or OWN_SENTENCES not in batch.metrics:
            raise ValueError(
                "return-to-go needs sentences that the student made itself; use a teacher that "
                "translates and the source on-policy"
            )
        ours, theirs = student.output.float(), teacher.output.float()
        costs = torch.zeros_like(ours[..., 0])
        costs[batch.mask] = divergence_loss(
            ours.detach()[batch.mask], theirs[batch.mask], "reverse", 0.5, self.temperature
        )
        later = returns_to_go(costs, batch.mask)
        if self.per_token:
            later = later / tokens_to_go(batch.mask)
        advantage = later - others_mean(later, batch.mask)
        chosen = ours.log_softmax(-1).gather(-1, batch.labels[..., None])[..., 0]
        own = batch.metrics[OWN_SENTENCES]
        return {"return_to_go": own * batch.counted(advantage * chosen).mean()}
