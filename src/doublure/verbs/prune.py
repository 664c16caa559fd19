"""`prune`: remove a network's least important filters, then distil the original into it."""

from pathlib import Path
from typing import Any, Unpack

from torch import nn

from doublure.compress.pruning import Importance, Pruning
from doublure.compress.pruning_loss import PruningLoss
from doublure.core.checks import positive
from doublure.core.protocols import InputContract, Source
from doublure.engine.recipe import ModelTransform, Recipe
from doublure.nets.references import NetworkRef
from doublure.recipes import smaller
from doublure.sources.shaders import Shaders
from doublure.verbs.changing import run_changed
from doublure.verbs.naming import source_named
from doublure.verbs.run_options import TeachOptions

# Recovery is short for a network that keeps most of its weights.
STEPS = 2000


def prune(
    model: str | NetworkRef | nn.Module | None = None,
    ratio: float = Pruning.ratio,
    *,
    out: str | Path,
    importance: Importance = Pruning.importance,
    loss: PruningLoss = Pruning.loss,
    rounds: int = 1,
    repair: bool = True,
    images: str | Source | None = None,
    transfer: str | Source | None = None,
    train_batchnorm: bool = False,
    **options: Unpack[TeachOptions],
) -> dict[str, Any]:
    """Remove a share of the filters of `model`, distil it back, and return the run's summary.

    Args:
        ratio: share of filters to remove, over all rounds.
        importance: "taylor", or as controls "l1" and "random".
        loss: loss of the gradients in "taylor": "fisher", "labels" (of `images`) or "kl".
        rounds: number of rounds of pruning and recovery.
        repair: solve the remaining weights of each layer by least squares before recovery; not in
            the published recipe.
        images: images for the importance; by default the transfer set's, or shader images.
        transfer: transfer set of the recovery, in place of shader images.
        train_batchnorm: update BatchNorm statistics on the transfer set.
        steps: steps of recovery, over all rounds; 0 for none.
        options: of `verbs.run_options.TeachOptions`.
    """
    positive("rounds", rounds)

    steps = options.get("steps")

    def make(reference: NetworkRef, contract: InputContract) -> Recipe:
        shown = None if transfer is None else source_named(transfer, contract=contract)
        judged = shown or Shaders()
        if images is not None:
            judged = source_named(images, labels=loss == "labels", contract=contract)
        once = 1 - (1 - ratio) ** (1 / rounds)
        pruning = Pruning(ratio=once, importance=importance, loss=loss, repair=repair)
        changes = [ModelTransform(transform=pruning, source=judged)] * rounds
        return smaller(
            "prune",
            reference,
            contract,
            changes,
            transfer=shown,
            steps=STEPS if steps is None else steps,
            train_batchnorm=train_batchnorm,
        )

    return run_changed("prune", make, model, out, options)
