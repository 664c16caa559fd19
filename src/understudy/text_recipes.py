"""Published recipes for networks that translate, beside those of `recipes`."""

from collections.abc import Collection

from understudy.fit import FitSettings
from understudy.nets.references import NetworkRef
from understudy.nets.taps import fast_precision
from understudy.objectives.divergence import Divergence
from understudy.objectives.hard_labels import HardLabels
from understudy.objectives.return_to_go import ReturnToGo
from understudy.objectives.weighted import AnyObjective, Weighted
from understudy.protocols import InputContract, Source, TextContract
from understudy.recipe import Recipe, Stage
from understudy.sources.on_policy import OnPolicy
from understudy.sources.sentences import Sentences
from understudy.sources.sequence_level import SequenceLevel


def sequence_kd(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract | TextContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    objective: AnyObjective | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """The teacher's own translations as the corpus: Kim, Rush: arXiv:1606.07947.

    With another objective, the corpus itself; and where that asks what the student proposes
    (`divergence`, `return-to-go`), the student's own sentences in half of the batches. Both shares
    are fields of the recipe.

    Args:
        base: parallel text.
    """
    if not isinstance(contract, TextContract):
        raise ValueError("sequence-kd is for networks that translate; choose another method")
    if base is None:
        raise ValueError("sequence-kd needs sentences; name parallel text with --transfer")
    if without:
        raise ValueError(f"sequence-kd has no part '{min(without)}'; set its shares with --set")
    own = objective is not None and _asks_for_proposals(objective)
    source = OnPolicy(
        source=SequenceLevel(source=base, share=1.0 if objective is None else 0.0),
        share=0.5 if own else 0.0,
    )
    # On-policy steps begin from a trained student, which a full rate would undo.
    fit = _fit(device, learning_rate=3e-4 if own else 1e-3)
    stage = Stage(source=source, objective=objective or HardLabels(), fit=fit)
    return Recipe(
        verb="distill",
        method="sequence-kd" if objective is None else "custom",
        teacher=teacher,
        student=student,
        stages=(stage,),
        seed=seed,
        device=device,
    )


def supervised_translation(
    student: NetworkRef, data: str, *, seed: int = 0, device: str = "auto"
) -> Recipe:
    """Cross-entropy with the corpus, labels smoothed by 0.1 (arXiv:1706.03762, sec. 5.4)."""
    stage = Stage(
        source=Sentences(data=data, held_out=0.0),
        objective=HardLabels(label_smoothing=0.1),
        fit=_fit(device, learning_rate=1e-3),
    )
    return Recipe(
        verb="train",
        method="supervised",
        student=student,
        stages=(stage,),
        seed=seed,
        device=device,
    )


def _fit(device: str, *, learning_rate: float) -> FitSettings:
    return FitSettings(
        batch_size=64,
        optimizer="adamw",
        learning_rate=learning_rate,
        weight_decay=0.01,
        warmup=0.1,
        precision=fast_precision(device),
        channels_last=False,
        gradient_clip=1.0,
    )


def _asks_for_proposals(objective: AnyObjective) -> bool:
    if isinstance(objective, Weighted):
        return any(_asks_for_proposals(part) for _, part in objective.terms)
    return isinstance(objective, ReturnToGo) or (
        isinstance(objective, Divergence) and objective.form != "forward"
    )
