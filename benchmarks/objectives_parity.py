"""Do the objectives give the numbers of an independent implementation, and its gradients?

torchdistill (MIT), by its own authors, on the same random features in float64. It is no dependency:
    pip install --no-deps --target FOLDER torchdistill
    PYTHONPATH=FOLDER python benchmarks/objectives_parity.py

Weights are 1 on both sides. Where conventions differ, the line that brings the other's number to
ours stands in the table of pairs below.
"""

import json
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from doublure.objectives.attention_transfer import attention_loss
from doublure.objectives.correlation_congruence import congruence_loss
from doublure.objectives.crd import contrastive_loss
from doublure.objectives.dist import dist_losses
from doublure.objectives.logit_standardisation import standardise
from doublure.objectives.pkt import pkt_loss
from doublure.objectives.review_kd import hierarchical_context_loss
from doublure.objectives.rkd import angle_loss, distance_loss
from doublure.objectives.soft_targets import soft_target_loss
from doublure.objectives.vid import information_loss

RESULT = Path(__file__).parent / "results" / "objectives_parity.json"
TOLERANCE = 1e-5
BATCH, CLASSES = 16, 10
Loss = Callable[[Tensor, Tensor], Tensor]


def answers(value: Any) -> dict[str, dict[str, Any]]:
    """Return a layer's values as the other library hands them to its losses."""
    return {"layer": {"output": value}}


def at_layer(make: Any, **options: Any) -> Loss:
    """Return a loss of the other library on one layer of either side."""
    place = {"student_module_path": "layer", "student_module_io": "output"}
    place |= {"teacher_module_path": "layer", "teacher_module_io": "output"}
    loss = make(**place, **options)
    return lambda student, teacher: loss(answers(student), answers(teacher))


def of_pairs(make: Any, name: str) -> Loss:
    """Return a loss of the other library that is told its pairs of layers."""
    side = {"path": "layer", "io": "output"}
    loss = make(**{name: {"only": {"student": side, "teacher": side}}})
    return lambda student, teacher: loss(answers(student), answers(teacher))


def related(losses: Any, *, distance: float, angle: float) -> Loss:
    """Return the other library's relations between samples."""
    loss = losses.RKDLoss("layer", "layer", distance, angle, "mean")
    return lambda student, teacher: loss(answers(student), answers(teacher))


def kernels(losses: Any) -> Loss:
    """Return the other library's kernels: it takes the norm over n^2, ours its square over n^2."""
    told = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    loss = losses.CCKDLoss("layer", "layer", told, "batchmean")

    def squared(student: Tensor, teacher: Tensor) -> Tensor:
        units = answers(F.normalize(student)), answers(F.normalize(teacher))
        return (loss(*units) * BATCH**2).square() / BATCH**2

    return squared


def contrasted(losses: Any) -> Loss:
    """Return the other library's contrast of scores; the first column is the positive one."""
    place = SimpleNamespace(num_samples=100, eps=1e-7)
    return lambda student, _: losses.CRDLoss.compute_contrast_loss(place, student.sigmoid()).sum()


def our_contrast(student: Tensor, _: Tensor) -> Tensor:
    """Return ours of the same scores."""
    scores = student.sigmoid()
    own, others = scores[:, 0], scores[:, 1:]
    return contrastive_loss(own, others, torch.ones_like(others), 100).mean()


def our_information(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ours at the variances of the comparison."""
    return information_loss(student, variances(student), teacher).mean()


def variances(student: Tensor) -> Tensor:
    """Return a variance for each channel."""
    return torch.linspace(0.5, 4.0, student.shape[1], dtype=student.dtype)


def their_information(losses: Any) -> Loss:
    """Return the other library's likelihood, which is handed mean and variance."""
    side = {"path": "layer", "io": "output"}
    loss = losses.VIDLoss({"only": {"student": side, "teacher": side}})

    def likelihood(student: Tensor, teacher: Tensor) -> Tensor:
        spread = variances(student)[:, None, None]
        return loss(answers((student, spread)), answers(teacher))

    return likelihood


def pairs(losses: Any) -> Iterator[tuple[str, tuple[int, ...], Loss, Loss]]:
    """Yield name, shape of the input, our loss and the other library's."""
    logits, vectors, maps = (BATCH, CLASSES), (BATCH, 24), (BATCH, 6, 8, 8)
    soft = at_layer(losses.KDLoss, temperature=4.0, beta=1.0)
    yield (
        "soft-targets",
        logits,
        lambda s, t: soft_target_loss(s, t, 4.0).mean(),
        lambda s, t: (
            16 * soft(s, t)  # unscaled there without labels
        ),
    )
    std = at_layer(losses.LogitStdKDLoss, temperature=2.0, beta=1.0)
    yield (
        "logit-standardisation",
        logits,
        lambda s, t: soft_target_loss(standardise(s), standardise(t), 2.0).mean(),
        lambda s, t: 4 * std(s, t),
    )
    yield (
        "dist",
        logits,
        lambda s, t: torch.stack(dist_losses(s, t, 4.0)).sum(),
        at_layer(losses.DISTLoss, tau=4.0),
    )
    yield (
        "attention-transfer",
        maps,
        lambda s, t: attention_loss(s, t, 2.0).mean(),
        of_pairs(losses.ATLoss, "at_pairs"),
    )
    yield "rkd distance", vectors, distance_loss, related(losses, distance=1.0, angle=0.0)
    yield "rkd angle", vectors, angle_loss, related(losses, distance=0.0, angle=1.0)
    yield "pkt", vectors, pkt_loss, at_layer(losses.PKTLoss)
    yield (
        "correlation-congruence",
        vectors,
        lambda s, t: congruence_loss(s, t, 0.4, 2),
        kernels(losses),
    )
    yield "vid", maps, our_information, their_information(losses)
    whole = at_layer(losses.HierarchicalContextLoss)
    yield (
        "review-kd, its comparison",
        maps,
        hierarchical_context_loss,
        lambda s, t: whole((s, None), t),
    )
    yield "crd, its contrast", vectors, our_contrast, contrasted(losses)


def main() -> None:
    try:
        from torchdistill.losses import mid_level as losses
    except ImportError as error:
        print(f"skipped: {error}; see the head of this file for how to install it beside")
        return
    rows = []
    for name, shape, ours, theirs in pairs(losses):
        numbers = torch.Generator().manual_seed(0)
        student, teacher = torch.randn(2, *shape, generator=numbers, dtype=torch.float64)
        found = []
        for loss in (ours, theirs):
            asked = student.clone().requires_grad_()
            value = loss(asked, teacher)
            (gradient,) = torch.autograd.grad(value, asked)
            found.append((value.item(), gradient))
        (one, pull), (other, push) = found
        gap = abs(one - other) / max(abs(other), 1e-12)
        bend = ((pull - push).norm() / push.norm()).item()
        rows.append({"objective": name, "ours": one, "theirs": other, "relative_gap": gap})
        rows[-1]["relative_gap_of_gradients"] = bend
        verdict = "equal" if max(gap, bend) < TOLERANCE else "DIFFERENT"
        print(f"{name:26} {one:14.8f} {other:14.8f}  {gap:.1e} {bend:.1e}  {verdict}")
    result = {
        "question": (__doc__ or "").splitlines()[0],
        "tolerance": TOLERANCE,
        "rows": rows,
        "versions": {name: version(name) for name in ("torch", "torchdistill")}
        | {"python": platform.python_version()},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if any(max(r["relative_gap"], r["relative_gap_of_gradients"]) > TOLERANCE for r in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
