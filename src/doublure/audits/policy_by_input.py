"""A policy that chooses the bits by the image: a small network over a codebook of policies.

All entries of the codebook cost the same. With R[n, m] = 1 where entry m flips image n, the
network pi maximises sum_m pi(m | x) R[n, m]: the whole table is known, so that the gradient has no
variance.
It learns on some images and is judged on others, beside the best single entry (chosen on the same
images it learnt on) and the oracle, who knows R.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from doublure.core.quantization_findings import ByInput

_STEPS, _RATE, _HIDDEN, _SIDE = 300, 3e-3, 32, 8


def expected_flips(
    logits: Float[Tensor, "images entries"], flips: Float[Tensor, "images entries"]
) -> Float[Tensor, ""]:
    """Return the mean of sum_m pi(m | x) R[n, m]."""
    return (logits.softmax(-1) * flips).sum(-1).mean()


def learn_policy(
    images: Float[Tensor, "images channels height width"],
    flips: Bool[Tensor, "images entries"],
    rng: torch.Generator,
) -> ByInput:
    """Return how a policy learned on the first half of the images flips the second half."""
    seen = F.adaptive_avg_pool2d(images, _SIDE).flatten(1)
    seen = (seen - seen.mean(0)) / seen.std(0).clamp(min=1e-6)
    half, table = len(images) // 2, flips.float()
    first, second = (
        nn.Parameter(torch.randn(out, into, generator=rng) / into**0.5)
        for out, into in ((_HIDDEN, seen.shape[1]), (flips.shape[1], _HIDDEN))
    )

    def policy(x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, first)), second)

    optimizer = torch.optim.Adam([first, second], lr=_RATE)
    for _ in range(_STEPS):
        with torch.enable_grad():
            loss = -expected_flips(policy(seen[:half]), table[:half])
        first.grad, second.grad = torch.autograd.grad(loss, [first, second])
        optimizer.step()
    chosen = policy(seen[half:]).argmax(-1)
    held_out = table[half:]
    constant = int(table[:half].mean(0).argmax())
    return ByInput(
        learned=held_out.gather(1, chosen[:, None]).mean().item(),
        constant=held_out[:, constant].mean().item(),
        oracle=held_out.amax(1).mean().item(),
        entries_used=len(set(chosen.tolist())),
    )
