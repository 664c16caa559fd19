"""Published recipes that learn from labels; see `recipes` for what is decided here."""

from collections.abc import Collection

from understudy.fit import FitSettings
from understudy.nets.references import NetworkRef
from understudy.nets.taps import fast_precision
from understudy.objectives.hard_labels import HardLabels
from understudy.objectives.truncated_targets import TruncatedTargets
from understudy.objectives.weighted import Weighted
from understudy.protocols import InputContract, Source
from understudy.recipe import Recipe, Stage
from understudy.sources.augmenting import augmented
from understudy.sources.surrogate import Surrogate

# Methods whose own objective asks for labels.
LABELLED = ("autoaugment-kd",)


def autoaugment_kd(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """AutoAugment; labels, and with weight 0.5 the teacher's five likeliest classes.

    Wei, Xiao, Xie, Zhang, Chen, Tian: arXiv:2003.11342.
    """
    if base is None:
        raise ValueError("autoaugment-kd needs labelled images; name them with --transfer")
    left_out = "augmentation" in without
    stage = Stage(
        source=base if left_out else augmented(base, "autoaugment", contract),
        objective=Weighted(terms=((1.0, HardLabels()), (0.5, TruncatedTargets()))),
        fit=FitSettings(precision=fast_precision(device)),
    )
    return Recipe(
        verb="distill",
        method="custom" if left_out else "autoaugment-kd",
        teacher=teacher,
        student=student,
        stages=(stage,),
        seed=seed,
        device=device,
    )


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
