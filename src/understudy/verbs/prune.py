"""`prune`: a network without its least important filters, then taught by what it was."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from understudy.checks import positive
from understudy.compress.pruning import Importance, Loss, Pruning
from understudy.nets.references import NetworkRef
from understudy.protocols import InputContract, Source
from understudy.recipe import Change, Recipe
from understudy.recipes import smaller
from understudy.sources.shaders import Shaders
from understudy.verbs.changing import run_changed
from understudy.verbs.naming import source_named

# Recovery of a network that keeps most of its weights is short.
STEPS = 2000


def prune(
    model: str | NetworkRef | nn.Module | None = None,
    share: float = Pruning.share,
    *,
    out: str | Path,
    importance: Importance = Pruning.importance,
    loss: Loss = Pruning.loss,
    rounds: int = 1,
    images: str | Source | None = None,
    transfer: str | Source | None = None,
    train_batchnorm: bool = False,
    eval: str | None = None,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
    skip_bad: bool = False,
    recipe: str | Path | Recipe | None = None,
    steps: int | None = None,
    budget: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    set: Mapping[str, str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_code: Sequence[str] = (),
    tensorboard: bool = False,
    checkpoint_seconds: float = 30.0,
    audit: bool = True,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> dict[str, Any]:
    """Remove a share of the filters of `model`, distil it back, and return the run's summary.

    Args:
        share: of the filters, over all rounds.
        importance: "taylor", or as controls "l1" and "random".
        loss: whose gradient "taylor" squares: "fisher", "labels" (of `images`) or "kl".
        rounds: how often to prune a part and recover.
        images: by which importance is judged; the transfer set's, or shader images.
        transfer: what the pruned network is shown while it recovers, in place of shader images.
        train_batchnorm: let BatchNorm take the statistics of the transfer set.
        steps: of recovery, over all rounds; 0 for none.
    """
    positive("rounds", rounds)

    def make(reference: NetworkRef, contract: InputContract) -> Recipe:
        shown = None if transfer is None else source_named(transfer, contract=contract)
        judged = shown or Shaders()
        if images is not None:
            judged = source_named(images, labels=loss == "labels", contract=contract)
        once = 1 - (1 - share) ** (1 / rounds)
        pruning = Pruning(share=once, importance=importance, loss=loss)
        changes = [Change(transform=pruning, source=judged)] * rounds
        return smaller(
            "prune",
            reference,
            contract,
            changes,
            transfer=shown,
            steps=STEPS if steps is None else steps,
            train_batchnorm=train_batchnorm,
        )

    return run_changed(
        "prune",
        make,
        model=model,
        out=out,
        recipe=recipe,
        eval=eval,
        weights=weights,
        mean=mean,
        std=std,
        size=size,
        classes=classes,
        skip_bad=skip_bad,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
        precision=precision,
        set=set,
        allow_code=allow_code,
        resume=resume,
        overwrite=overwrite,
        budget=budget,
        tensorboard=tensorboard,
        checkpoint_seconds=checkpoint_seconds,
        audit=audit,
        say=say,
        watch=watch,
    )
