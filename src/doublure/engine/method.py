"""A method: a paper's whole recipe as stages, for the user's inputs."""

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
# For networks with LayerNorm: SGD at BatchNorm learning rates does not converge for them. Touvron
# et al., arXiv:2012.12877, table 9: 0.0005 per 512 images of a batch, of 1024 images there. The
# gradient clip is ours.
_OF_LAYER_NORM: dict[str, Any] = {
    "optimizer": AdamW(),
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "gradient_clip": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Properties of a run's networks on which a recipe may depend.

    Args:
        statistics: whether the teacher has BatchNorm statistics of its data.
        inherits: whether the student can inherit weights of the teacher.
        stages: whether both have layers with maps or tokens that can be compared.
        layer_norm: whether the student has LayerNorm and no BatchNorm.
    """

    statistics: bool = True
    inherits: bool = True
    stages: bool = True
    layer_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class MethodInputs:
    """Inputs of a method.

    Args:
        contract: the teacher's contract.
        task: name of the networks' task; "" if unknown.
        base: source in place of the method's own images.
        without: parts of the method to omit.
        objective: objective of the last stage in place of the method's own.
        facts: properties of the networks.
        few: 10 to 500 real images in addition to the method's own, if there are any.
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
        """The contract, for methods for images only."""
        return typing.cast(InputContract, self.contract)  # `Method.recipe` refuses others


@dataclass(frozen=True, kw_only=True)
class Method:
    """A published recipe with a name.

    Args:
        stages: function from inputs to stages; its docstring names the paper's choices.
        needs: required inputs.
        parts: parts that can be omitted, for ablations.
        plan: function that returns the choices for these networks and their reasons, in a few
            sentences.
        tasks: names of its tasks.
        open: whether it keeps its name with other images or another objective.
        uses_few: whether it can use a few real images in addition to its own.
        applied: function that adapts an objective that the user names to the outputs of such
            networks: for maps, the same objective for every pixel.
    """

    name: str
    stages: Callable[[MethodInputs], tuple[Stage, ...]]
    needs: Need = "nothing"
    parts: tuple[str, ...] = ()
    plan: Callable[[MethodInputs], tuple[str, ...]] = lambda _: ()
    tasks: tuple[str, ...] = ()
    open: bool = False
    uses_few: bool = False
    applied: Callable[[AnyObjective], AnyObjective] = lambda objective: objective

    def recipe(
        self, teacher: NetworkRef, student: NetworkRef, inputs: MethodInputs, *, seed: int = 0
    ) -> Recipe:
        """Return the recipe of a run; with a part replaced or omitted its method is "custom".

        Raises:
            ValueError: a required input is missing, the method is for other teachers, or has no
                such part.
        """
        self._refuse(inputs)
        stages = self.stages(inputs)
        if inputs.objective is not None:
            # Earlier stages prepare the last one.
            objective = self.applied(inputs.objective)
            stages = (*stages[:-1], replace(stages[-1], objective=objective))
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
                f"{inputs.task}; remove --method"
            )
        if inputs.base is None and self.needs != "nothing":
            raise ValueError(f"{self.name} needs {_WANTED[self.needs]}")
        if inputs.few is not None and not self.uses_few:
            raise ValueError(
                f"{self.name} uses the published images only and cannot use --few; remove it, or "
                f"use --method auto"
            )
        for part in inputs.without:
            if not self.parts:
                raise ValueError(
                    f"{self.name} has no part '{part}' to omit; change its settings with --set"
                )
            one_of(f"part of {self.name}", part, self.parts)


def normalises_layers(network: nn.Module) -> bool:
    """Return whether a network has LayerNorm and no BatchNorm layers, like transformers."""
    layers = [*network.modules()]
    batches = any(isinstance(layer, _BatchNorm) for layer in layers)
    return not batches and any(isinstance(layer, nn.LayerNorm) for layer in layers)


def choose_optimizer(recipe: Recipe, student: nn.Module) -> Recipe:
    """Return the recipe with an optimizer that suits the student: AdamW for transformers.

    AdamW replaces SGD in a stage if the student has LayerNorm and no BatchNorm layers.
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
