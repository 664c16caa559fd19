"""Recipes for networks that answer every pixel; each says what is published and what is ours.

Images are shown in windows of about half of their side: a map costs as many times more than a
class as it has pixels. What makes images makes them at that size.
"""

from dataclasses import replace

from doublure.compress.inherit import Inherit
from doublure.core.protocols import InputContract, Source
from doublure.data.scenes import SceneData
from doublure.engine.fit import FitSettings
from doublure.engine.method import MethodInputs
from doublure.engine.optimizers import AdamW
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.schedules import Cosine
from doublure.nets.generators import GeneratorPlan
from doublure.nets.references import NetworkRef
from doublure.objectives.logit_l1 import LogitL1
from doublure.objectives.per_pixel import PerPixel
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.sources.augmentation import PUBLISHED, Augmented
from doublure.sources.collapse import CollapseCheck
from doublure.sources.dfad import DFAD
from doublure.sources.matched import Matched
from doublure.sources.scenes import Scenes
from doublure.sources.shaders import Shaders
from doublure.sources.sized import Sized
from doublure.tasks.segmentation.pixel_labels import PixelLabels, balancing_weights

# Sides of what is shown are multiples of this: what a U-Net shrinks by.
_GRID = 16
_TAUGHT, _TRAINED = 0.53, 0.7
_FIT = FitSettings(
    steps=3000,
    batch_size=10,
    optimizer=AdamW(),
    learning_rate=2e-3,
    weight_decay=1e-4,
    schedule=Cosine(warmup=0.02),
    gradient_clip=5.0,
)
_TRAIN_FIT = replace(_FIT, batch_size=8)
# Images by which inherited layers are repaired.
_REPAIRED = 128
# Objectives that take maps as they are.
_DENSE = (LogitL1, PerPixel, PixelLabels)


def window(size: tuple[int, int], part: float) -> tuple[int, int]:
    """Return sides of about this part of an image's, on the grid, and no larger than the image."""
    height, width = (min(side, max(2 * _GRID, _GRID * round(part * side / _GRID))) for side in size)
    return height, width


def square(contract: InputContract) -> tuple[int, int]:
    """Return the size at which a student is taught: a square of about half of the shorter side."""
    side = window(contract.size, _TAUGHT)[0 if contract.size[0] <= contract.size[1] else 1]
    return side, side


def per_pixel(objective: AnyObjective) -> AnyObjective:
    """Return an objective applied to every pixel, unless it takes maps as they are."""
    if isinstance(objective, Weighted):
        return Weighted(terms=tuple((weight, per_pixel(part)) for weight, part in objective.terms))
    return objective if isinstance(objective, _DENSE) else PerPixel(objective=objective)


def shown(source: Source, contract: InputContract) -> Source:
    """Return what a student is shown of a source: windows of images, or small images."""
    if isinstance(source, Sized):
        return source
    if isinstance(source, Scenes):
        return source if source.size else replace(source, size=square(contract))
    return Sized(source=source, size=square(contract))


def auto(inputs: MethodInputs) -> tuple[Stage, ...]:
    """Return `surrogate_kd` where images are given, else `dfad`; a student inherits what it can."""
    (stage,) = dfad(inputs) if inputs.base is None else surrogate_kd(inputs)
    if not _inherits(inputs):
        return (stage,)
    # A generator that has not learned yet shows nothing by which layers could be repaired.
    seen = shown(Matched(source=Shaders()), inputs.image_contract) if inputs.base is None else None
    return (replace(stage, init=Inherit(num_images=_REPAIRED), init_source=seen),)


def plan(inputs: MethodInputs) -> tuple[str, ...]:
    """Return what was chosen and why."""
    begins = (
        "the student begins with what it can take over from its teacher"
        if _inherits(inputs)
        else "the student begins from scratch"
    )
    if inputs.base is None:
        return begins, "no images are given: a generator looks for those at which the two differ"
    return begins, "windows of the images given are shown, none is made"


def _inherits(inputs: MethodInputs) -> bool:
    return "inherit" not in inputs.without and inputs.facts.inherits


def surrogate_kd(inputs: MethodInputs) -> tuple[Stage, ...]:
    """The teacher's logits on windows of any images one has, by their absolute difference.

    Ours, but for the objective: what Fang et al. (arXiv:1912.11006) compare DFAD with.
    """
    assert inputs.base is not None  # else refused by `Method.recipe`
    stage = Stage(source=shown(inputs.base, inputs.image_contract), objective=LogitL1(), fit=_FIT)
    return (stage,)


def dfad(inputs: MethodInputs) -> tuple[Stage, ...]:
    """A generator that plays against the student; both go by the logits' absolute difference.

    Fang et al.: arXiv:1912.11006. Ours: the generator's loss is linear, the published logarithm
    damps it while the two differ much; the generator's size, AdamW and the cosine.
    """
    game = DFAD(
        generator=GeneratorPlan(shape="deconvolution", head="sigmoid", latent=64, width=16),
        milestones=(),
        loss="linear",
        collapse=CollapseCheck(count=16),
    )
    source = shown(inputs.base or game, inputs.image_contract)
    return (Stage(source=source, objective=LogitL1(), fit=_FIT),)


def shader_kd(inputs: MethodInputs) -> tuple[Stage, ...]:
    """Shader images at the contract's mean and deviation, shifted and mirrored."""
    source = inputs.base or Shaders()
    side = square(inputs.image_contract)
    moved = replace(PUBLISHED["mild"], shift=side[0] // 8, flip=0.5)
    source = Augmented(source=Matched(source=source), augmentation=moved)
    return (Stage(source=Sized(source=source, size=side), objective=LogitL1(), fit=_FIT),)


def supervised(student: NetworkRef, data: str, scenes: SceneData) -> Recipe:
    """Cross-entropy with label maps, weighted by class, on scaled and mirrored windows.

    Args:
        scenes: what `data` names, opened, for the shares of the classes.
    """
    source = Scenes(
        data=data,
        labels=True,
        size=window(scenes.contract.size, _TRAINED),
        scale=(0.8, 1.25),
        held_out=0.0,
    )
    weights = balancing_weights(scenes.class_shares().tolist())
    stage = Stage(source=source, objective=PixelLabels(class_weights=weights), fit=_TRAIN_FIT)
    return Recipe(verb="train", method="supervised", student=student, stages=(stage,))
