"""The recipe of a generator: networks, training and images; and the published recipe."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from doublure.engine.fit import FitSettings
from doublure.engine.optimizers import AdamW
from doublure.engine.schedules import Constant
from doublure.nets.cramer_wold import PUBLISHED, CramerWoldPlan
from doublure.sources.lcw import METHOD
from doublure.tasks.generation.cramer_wold import AutoEncoding

# Below this side in pixels, strided convolutions are not useful.
_LEAST_CONVOLVED = 16


def encoding_settings() -> FitSettings:
    """Return the published training of an auto-encoder."""
    return _adam(128, 1e-3)


def generating_settings() -> FitSettings:
    """Return the published training of a latent generator."""
    return _adam(256, 2e-3)


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe:
    """All that determines a generator's bytes. Defaults: the paper's for MNIST, Adam without decay.

    Args:
        verb: the verb for a file of this recipe.
        method: name of the published recipe.
        data: training images; labels are not used.
        plan: the networks.
        auto_encoder: the objective of the first stage.
        encoding: training of the first stage.
        generating: training of the second stage.
        held_out: share of the images for evaluation only.
        skip_bad: skip and count unreadable files.
        seed: the random seed.
        device: cpu, cuda, or auto.
    """

    verb: Literal["train-generator"] = "train-generator"
    method: Literal["lcw"] = METHOD
    data: str
    plan: CramerWoldPlan = field(default_factory=CramerWoldPlan)
    auto_encoder: AutoEncoding = field(default_factory=AutoEncoding)
    encoding: FitSettings = field(default_factory=encoding_settings)
    generating: FitSettings = field(default_factory=generating_settings)
    held_out: float = 0.1
    skip_bad: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(
                f"held_out must lie between 0 and 1, got {self.held_out}: without images kept "
                "apart nobody could tell a generator from a copier"
            )


def lcw(data: str, shape: tuple[int, int, int], **changes: Any) -> GeneratorRecipe:
    """Return the published recipe for images of this height, width and number of channels.

    Knop et al.: arXiv:2009.07327, for MNIST (small or grey images) or for SVHN (others).
    """
    height, width, channels = shape
    dense = channels == 1 or min(height, width) < _LEAST_CONVOLVED
    plan = PUBLISHED["mnist" if dense else "svhn"]
    plan = dataclasses.replace(plan, size=(height, width), channels=channels)
    return GeneratorRecipe(data=data, plan=plan, **changes)


def _adam(batch_size: int, learning_rate: float) -> FitSettings:
    return FitSettings(
        batch_size=batch_size,
        optimizer=AdamW(),
        learning_rate=learning_rate,
        weight_decay=0.0,
        schedule=Constant(),
        channels_last=False,
    )
