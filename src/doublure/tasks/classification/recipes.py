"""Published recipes with labels; `recipes` describes what such a function decides."""

from doublure.core.protocols import InputContract
from doublure.engine.fit import FitSettings
from doublure.engine.method import MethodInputs
from doublure.engine.recipe import Recipe, Stage
from doublure.nets.precision import fast_precision
from doublure.nets.references import NetworkRef
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.truncated_targets import TruncatedTargets
from doublure.objectives.weighted import Weighted
from doublure.sources.augmenting import augmented
from doublure.sources.surrogate import Surrogate


def autoaugment_kd(inputs: MethodInputs) -> tuple[Stage, ...]:
    """AutoAugment; labels, and with weight 0.5 the teacher's top five classes.

    Wei, Xiao, Xie, Zhang, Chen, Tian: arXiv:2003.11342.
    """
    assert inputs.base is not None  # `Method.recipe` checks this
    source = inputs.base
    if "augmentation" not in inputs.without:
        source = augmented(source, "autoaugment", inputs.image_contract)
    stage = Stage(
        source=source,
        objective=Weighted(terms=((1.0, HardLabels()), (0.5, TruncatedTargets()))),
        fit=FitSettings(precision=fast_precision(inputs.device)),
    )
    return (stage,)


def supervised(
    student: NetworkRef,
    data: str,
    contract: InputContract,
    *,
    augment: str = "mild",
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """Cross-entropy with labels, and an augmentation of `sources.augmenting`."""
    images = Surrogate(data=data, labels=True, held_out=0.0)
    stage = Stage(
        source=augmented(images, augment, contract),
        objective=HardLabels(),
        fit=FitSettings(precision=fast_precision(device)),
    )
    return Recipe(verb="train", method="supervised", student=student, stages=(stage,), seed=seed)
