"""Published recipes for translators."""

from doublure.engine.fit import FitSettings
from doublure.engine.method import MethodInputs
from doublure.engine.optimizers import AdamW
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.schedules import Cosine
from doublure.nets.precision import fast_precision
from doublure.nets.references import NetworkRef
from doublure.objectives.divergence import Divergence
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.tasks.translation.on_policy import OnPolicy
from doublure.tasks.translation.return_to_go import ReturnToGo
from doublure.tasks.translation.sentences import Sentences
from doublure.tasks.translation.sequence_level import SequenceLevel


def sequence_kd(inputs: MethodInputs) -> tuple[Stage, ...]:
    """The teacher's own translations as the corpus: Kim, Rush: arXiv:1606.07947.

    With another objective, the corpus itself; if that objective evaluates the student's sentences
    (`divergence`, `return-to-go`), half of the batches have the student's own. Both shares are
    fields of the recipe.
    """
    assert inputs.base is not None  # `Method.recipe` checks this
    own = inputs.objective is not None and _asks_for_proposals(inputs.objective)
    source = OnPolicy(
        source=SequenceLevel(source=inputs.base, share=1.0 if inputs.objective is None else 0.0),
        share=0.5 if own else 0.0,
    )
    # On-policy steps start from a trained student, which a full learning rate would destroy.
    fit = _fit(inputs.device, learning_rate=3e-4 if own else 1e-3)
    return (Stage(source=source, objective=HardLabels(), fit=fit),)


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
        optimizer=AdamW(),
        learning_rate=learning_rate,
        weight_decay=0.01,
        schedule=Cosine(warmup=0.1),
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
