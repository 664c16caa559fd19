"""A whole run as one typed value; `codec` writes it as TOML and reads it back."""

from dataclasses import dataclass, field
from typing import Literal

from doublure.core.checks import positive
from doublure.core.initialisation import Initialization
from doublure.core.protocols import Rule, Source, Transform
from doublure.engine.answer_ring import Ring
from doublure.engine.fit import FitSettings
from doublure.engine.label_space import check_label_space
from doublure.nets.references import NetworkRef
from doublure.objectives.weighted import AnyObjective

Verb = Literal["distill", "train", "prune", "quantize", "continual"]


class RecipeError(ValueError):
    """A recipe cannot be read; the message names the key."""


@dataclass(frozen=True, kw_only=True)
class ModelTransform:
    """What is done to the student's architecture, and the images by which it is judged.

    Args:
        source: None where the transform needs to see nothing.
        num_images: of the source that the transform sees.
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
    """All that decides a student's bytes, and where to evaluate it afterwards.

    Args:
        method: the published recipe it follows, or "custom" where a part was swapped.
        teacher: None for `train`.
        student: for `prune`, `quantize` and `continual` the teacher's own, which they start from.
        own_label_space: the student's classes are not its teacher's, who is asked for layers alone.
        plan: why the recipe is as it is, in a few sentences, where it was chosen for its networks.
        eval: labelled data to score on; never changes the student.
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
