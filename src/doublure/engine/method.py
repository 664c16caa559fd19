"""A method: a paper's whole recipe as stages, made for what a person has."""

import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from doublure.core.checks import one_of
from doublure.core.protocols import Contract, InputContract, Source
from doublure.engine.optimizers import SGD, AdamW
from doublure.engine.recipe import Recipe, Stage
from doublure.nets.references import NetworkRef
from doublure.objectives.weighted import AnyObjective
from doublure.sources.few import Few

Need = Literal["nothing", "images", "labels", "sentences"]

_WANTED = {
    "images": "images; name a folder, SET or .npz with --transfer",
    "labels": "labelled images; name them with --transfer",
    "sentences": "sentences; name parallel text with --transfer",
}
# For networks that normalise layers and not batches: by the rates that batch normalisation bears,
# SGD does not train them. Touvron et al., arXiv:2012.12877, table 9: 0.0005 for each 512 images of
# a batch, of which they take 1024. The clip is ours.
_OF_LAYER_NORM: dict[str, Any] = {
    "optimizer": AdamW(),
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "gradient_clip": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the networks of a run are like, as far as a recipe may depend on it.

    Args:
        statistics: the teacher holds BatchNorm statistics of its data.
        inherits: something of the teacher can become the student's.
        stages: both have layers that answer with maps or tokens, to be compared.
        layer_norm: the student normalises layers and not batches.
    """

    statistics: bool = True
    inherits: bool = True
    stages: bool = True
    layer_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class MethodInputs:
    """What a person brings to a method.

    Args:
        contract: what the teacher takes.
        task: whose networks they are, by its name; "" where nobody asks.
        base: what is shown in place of the method's own images.
        without: parts of the method to leave out.
        objective: what the last stage matches in place of the method's own.
        facts: what the networks are like.
        few: 10 to 500 real images beside what the method makes, where there are any.
    """

    contract: Contract
    task: str = ""
    base: Source | None = None
    without: frozenset[str] = frozenset()
    objective: AnyObjective | None = None
    facts: Facts = Facts()
    few: Few | None = None
    device: str = "auto"

    @property
    def image_contract(self) -> InputContract:
        """The contract, for methods that are for images alone."""
        return typing.cast(InputContract, self.contract)  # another is refused by `Method.recipe`


@dataclass(frozen=True, kw_only=True)
class Method:
    """A published recipe by its name.

    Args:
        stages: made of what is given; the function says what is the paper's.
        needs: what must be given, for methods that cannot do without.
        parts: what can be left out, to see what it is worth.
        plan: what was chosen for these networks and why, in a few sentences, where anything was.
        tasks: whose networks it is for, by their names.
        open: it is meant for whatever is given: with images or an objective in place of its own it
            is still itself.
        uses_few: it can show a few real images beside its own.
    """

    name: str
    stages: Callable[[MethodInputs], tuple[Stage, ...]]
    needs: Need = "nothing"
    parts: tuple[str, ...] = ()
    plan: Callable[[MethodInputs], tuple[str, ...]] = lambda _: ()
    tasks: tuple[str, ...] = ()
    open: bool = False
    uses_few: bool = False

    def recipe(
        self, teacher: NetworkRef, student: NetworkRef, inputs: MethodInputs, *, seed: int = 0
    ) -> Recipe:
        """Return the recipe of a run; with a part swapped or left out its method is "custom".

        Raises:
            ValueError: what the method needs was not given, it is not for such a teacher, or it has
                no such part.
        """
        self._refuse(inputs)
        stages = self.stages(inputs)
        if inputs.objective is not None:
            # What comes before the last stage prepares it.
            stages = (*stages[:-1], replace(stages[-1], objective=inputs.objective))
        shown = inputs.base is not None and self.needs == "nothing" and not self.open
        swapped = shown or inputs.without or inputs.objective is not None
        return Recipe(
            verb="distill",
            method="custom" if swapped else self.name,
            teacher=teacher,
            student=student,
            stages=stages,
            seed=seed,
            device=inputs.device,
            plan=self.plan(inputs),
        )

    def _refuse(self, inputs: MethodInputs) -> None:
        if inputs.task and inputs.task not in self.tasks:
            raise ValueError(
                f"{self.name} is for {' and '.join(self.tasks)}, but the teacher is one of "
                f"{inputs.task}; leave --method out"
            )
        if inputs.base is None and self.needs != "nothing":
            raise ValueError(f"{self.name} needs {_WANTED[self.needs]}")
        if inputs.few is not None and not self.uses_few:
            raise ValueError(
                f"{self.name} is shown what was published, and has no use for a few real images; "
                "leave --few out, or take --method auto"
            )
        for part in inputs.without:
            if not self.parts:
                raise ValueError(
                    f"{self.name} has no part '{part}' to leave out; change its settings with --set"
                )
            one_of(f"part of {self.name}", part, self.parts)


def normalises_layers(network: nn.Module) -> bool:
    """Whether a network has LayerNorm and no BatchNorm layers, as transformers do."""
    layers = [*network.modules()]
    batches = any(isinstance(layer, _BatchNorm) for layer in layers)
    return not batches and any(isinstance(layer, nn.LayerNorm) for layer in layers)


def choose_optimizer(recipe: Recipe, student: nn.Module) -> Recipe:
    """Return the recipe with an optimizer by which such a student learns: AdamW for transformers.

    That is, where it has LayerNorm and no BatchNorm layers, and a stage would take SGD.
    """
    if not normalises_layers(student):
        return recipe
    stages = tuple(
        replace(stage, fit=replace(stage.fit, **_OF_LAYER_NORM))
        if isinstance(stage.fit.optimizer, SGD)
        else stage
        for stage in recipe.stages
    )
    return replace(recipe, stages=stages)
