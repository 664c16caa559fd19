"""A whole run as one typed value; `codec` writes and reads it as TOML."""

from dataclasses import dataclass, field
from typing import Literal

from doublure.core.checks import positive
from doublure.core.initialisation import Initialization
from doublure.core.protocols import Rule, Source, SourceOnDisk, Transform, parts_of
from doublure.engine.answer_ring import Ring
from doublure.engine.fit import FitSettings
from doublure.engine.label_space import check_label_space
from doublure.nets.references import NetworkRef
from doublure.objectives.weighted import AnyObjective

Verb = Literal["distill", "train", "prune", "quantize", "continual"]


class RecipeError(ValueError):
    """A recipe cannot be read; the message has the key."""


@dataclass(frozen=True, kw_only=True)
class ModelTransform:
    """A change of the student's architecture, and the images that it uses.

    Args:
        source: source of images; None if the transform needs none.
        num_images: number of images for the transform.
    """

    transform: Transform
    source: Source | None = None
    num_images: int = 256

    def __post_init__(self) -> None:
        positive("num_images", self.num_images)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training: a source, an objective, a loop and rules, with a new optimizer.

    Args:
        model_transform: what happens to the student's architecture before.
        init: how its weights begin; None leaves them as they are.
        init_source: the images that `init` sees; None takes what the stage shows.
        ring: how many answers of the teacher are kept and shown again; None asks in every step.
        member: the network at its end is a member of the student, which is then the ensemble of
            all members; later stages go on from it.
    """

    source: Source
    objective: AnyObjective
    fit: FitSettings = field(default_factory=FitSettings)
    rules: tuple[Rule, ...] = ()
    model_transform: ModelTransform | None = None
    init: Initialization | None = None
    init_source: Source | None = None
    ring: Ring | None = None
    member: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that determines a student's bytes, and its evaluation data.

    Args:
        method: name of the published recipe, or "custom" if a part was replaced.
        teacher: None for `train`.
        student: for `prune`, `quantize` and `continual` the teacher's reference, whose weights they
            start from.
        own_label_space: whether the student has other classes than its teacher, of which only
            features are used.
        plan: reasons for the choices made for these networks, in a few sentences.
        eval: labelled evaluation data; never affects the student.
    """

    verb: Verb = "distill"
    method: str = "custom"
    teacher: NetworkRef | None = None
    student: NetworkRef
    stages: tuple[Stage, ...]
    seed: int = 0
    device: str = "auto"
    own_label_space: bool = False
    plan: tuple[str, ...] = ()
    eval: str | None = None

    def __post_init__(self) -> None:
        for stage in self.stages if self.own_label_space else ():
            check_label_space(stage.objective, stage.source)


def inputs_of(recipe: Recipe) -> list[str]:
    """Return the files and folders that a run is made from, and other names, as they were typed."""
    references = [part for part in (recipe.teacher, recipe.student) if part is not None]
    named = [name for part in references for name in (part.ref, part.weights, part.vocabulary)]
    for stage in recipe.stages:
        for part in parts_of(stage.source):
            named += part.paths if isinstance(part, SourceOnDisk) else ()
    return [name for name in (*named, recipe.eval) if name is not None]
