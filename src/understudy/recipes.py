"""Published recipes: functions that return a `Recipe`.

A default is the paper's where the paper says it; what it does not say is ours, and the method's
page tells which is which. What depends on the machine (precision) or on the task (image size) is
decided here, once, and stands resolved in the recipe file.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from understudy.checks import one_of
from understudy.fit import FitSettings
from understudy.labelled_recipes import autoaugment_kd
from understudy.nets.references import NetworkRef
from understudy.nets.taps import fast_precision
from understudy.objectives.activation_boundaries import ActivationBoundaries
from understudy.objectives.logit_l1 import LogitL1
from understudy.objectives.soft_targets import SoftTargets
from understudy.protocols import InputContract, Source
from understudy.recipe import Change, Recipe, Stage, Verb
from understudy.rules.frozen_batchnorm import FrozenBatchNorm
from understudy.sources.adversarial import Adversarial
from understudy.sources.augmentation import PUBLISHED as AUGMENTATIONS
from understudy.sources.augmentation import Augmented
from understudy.sources.augmenting import shifted_and_mirrored
from understudy.sources.balanced import Balanced
from understudy.sources.deep_inversion import settings_for
from understudy.sources.dfad import Dfad
from understudy.sources.fast_meta import FastMeta
from understudy.sources.matched import Matched
from understudy.sources.mixing import Mixed
from understudy.sources.rdskd import Rdskd
from understudy.sources.replay import Replay
from understudy.sources.shaders import Shaders
from understudy.sources.surrogate import Surrogate
from understudy.text_recipes import sequence_kd

# What can be left out of a recipe, to see what it is worth.
PARTS = ("matching", "balance", "augmentation", "mixup", "attack")

# Of a run that begins with activation boundaries; the paper's own are not known.
_INITIALISED = 0.1

# Below this many pixels a side, crops and mixtures leave nothing to recognise: both are left out.
_TINY = 16


def shader_kd(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    augmentation: str = "extreme",
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """Matched, balanced shader images, heavily augmented, mixed and attacked; soft targets, T = 20.

    Frank, Davis: arXiv:2310.13782; settings of their arXiv:2411.12817 where those are known.

    Args:
        base: what is shown in place of shader images.
        without: parts of the recipe to leave out, of `PARTS`.
    """
    for part in without:
        one_of("part of the recipe", part, PARTS)
    tiny = min(contract.size) < _TINY
    precision = fast_precision(device)
    source = base if base is not None else Shaders()
    if "matching" not in without:
        source = Matched(source=source)
    if "balance" not in without:
        # Below 16 showings an image costs more to draw than to learn from.
        source = Balanced(source=source, precision=precision, least_showings=16, fill_every=2)
    if "augmentation" not in without and not tiny:
        source = Augmented(source=source, augmentation=AUGMENTATIONS[augmentation])
    if "mixup" not in without and not tiny:
        source = Mixed(source=source)
    if "attack" not in without:
        source = Adversarial(source=source)
    stage = Stage(
        source=source,
        objective=SoftTargets(temperature=20.0),
        fit=FitSettings(precision=precision),
    )
    return Recipe(
        verb="distill",
        method="shader-kd" if base is None and not without else "custom",
        teacher=teacher,
        student=student,
        stages=(stage,),
        seed=seed,
        device=device,
    )


def surrogate_kd(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """The same with any images one has: mixup always, soft targets at T = 2, no attack.

    Frank, Davis: What Makes a Good Dataset for Knowledge Distillation?, arXiv:2411.12817.
    """
    if base is None:
        raise ValueError("surrogate-kd needs images; name a folder, SET or .npz with --transfer")
    recipe = shader_kd(
        teacher,
        student,
        contract,
        base=base,
        without={*without, "attack", "balance", "matching"},
        augmentation="standard",
        seed=seed,
        device=device,
    )
    stage = replace(recipe.stages[0], objective=SoftTargets(temperature=2.0))
    named = isinstance(base, Surrogate) and not without
    return replace(recipe, method="surrogate-kd" if named else "custom", stages=(stage,))


def activation_boundary(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """A tenth of the steps by activation boundaries, then soft targets at T = 3, a new optimizer.

    Heo, Lee, Yun, Choi: arXiv:1811.03233. What is shown is shader-kd's, or of images given
    surrogate-kd's.
    """
    make = shader_kd if base is None else surrogate_kd
    whole = make(teacher, student, contract, base=base, without=without, seed=seed, device=device)
    stage = whole.stages[0]
    begun = max(1, round(_INITIALISED * stage.fit.steps))
    stages = tuple(
        replace(stage, objective=objective, fit=replace(stage.fit, steps=steps))
        for objective, steps in (
            (ActivationBoundaries(), begun),
            (SoftTargets(temperature=3.0), stage.fit.steps - begun),
        )
    )
    method = "custom" if without else "activation-boundary"
    return replace(whole, method=method, stages=stages)


def dfad(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """A generator that plays against the student; both go by the logits' absolute difference.

    Fang et al.: arXiv:1912.11006, their CIFAR setting; the student's cosine is ours.
    """
    _refuse_parts("dfad", without)
    stage = Stage(
        source=base if base is not None else Dfad(),
        objective=LogitL1(),
        # Half precision rounds logits by as much as the two differ in the end.
        fit=FitSettings(nesterov=False, warmup=0.0),
    )
    return _of_method("dfad", base, teacher, student, stage, seed=seed, device=device)


def rdskd(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """A generator trained on the teacher alone, then a student on its images; T = 10, Adam.

    Han et al.: arXiv:2011.03749; the cosine is ours.
    """
    _refuse_parts("rdskd", without)
    stage = Stage(
        source=base if base is not None else Rdskd(),
        objective=SoftTargets(temperature=10.0),
        fit=FitSettings(
            batch_size=512,
            optimizer="adamw",
            learning_rate=2e-3,
            weight_decay=0.0,
            warmup=0.0,
            precision=fast_precision(device),
        ),
    )
    return _of_method("rdskd", base, teacher, student, stage, seed=seed, device=device)


def deep_inversion(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """Images inverted from the teacher, one new batch every 50 steps, T = 3.

    Yin et al.: arXiv:1912.08795; the cosine and the weight decay are ours.
    """
    inverted = settings_for(contract)
    return _replayed("deep-inversion", inverted, base, without, teacher, student, seed, device)


def adaptive_deep_inversion(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """The same with images at which the student, as it stands, disagrees with the teacher."""
    inverted = settings_for(contract, adaptive=True)
    named = "adaptive-deep-inversion"
    return _replayed(named, inverted, base, without, teacher, student, seed, device)


def _replayed(
    method: str,
    inverted: Source,
    base: Source | None,
    without: Collection[str],
    teacher: NetworkRef,
    student: NetworkRef,
    seed: int,
    device: str,
) -> Recipe:
    _refuse_parts(method, without)
    stage = Stage(
        source=Replay(source=inverted if base is None else base),
        objective=SoftTargets(temperature=3.0),
        fit=FitSettings(precision=fast_precision(device)),
    )
    return _of_method(method, base, teacher, student, stage, seed=seed, device=device)


def fast_meta(
    teacher: NetworkRef,
    student: NetworkRef,
    contract: InputContract,
    *,
    base: Source | None = None,
    without: Collection[str] = (),
    seed: int = 0,
    device: str = "auto",
) -> Recipe:
    """Five steps of a generator for each batch, 20 batches and one more every 400 steps; T = 20.

    Fang et al.: arXiv:2112.06253. The teacher sees images shifted by an eighth of the side, the
    published 4 pixels of 32, and mirrored if they are coloured; so does the student, above 16.
    """
    _refuse_parts("fast-meta", without)
    mild = shifted_and_mirrored(contract)
    source: Source = base if base is not None else FastMeta(shift=mild.shift, flip=mild.flip)
    source = Replay(source=source, every=400, first=20)
    if min(contract.size) >= _TINY:
        source = Augmented(source=source, augmentation=mild)
    stage = Stage(
        source=source,
        objective=SoftTargets(temperature=20.0),
        fit=FitSettings(
            learning_rate=0.2,
            weight_decay=1e-4,
            nesterov=False,
            warmup=0.0,
            precision=fast_precision(device),
        ),
    )
    return _of_method("fast-meta", base, teacher, student, stage, seed=seed, device=device)


def _refuse_parts(method: str, without: Collection[str]) -> None:
    if without:
        raise ValueError(
            f"the recipe {method} has no part '{next(iter(without))}' to leave out; "
            "change its settings with --set"
        )


def _of_method(
    method: str,
    base: Source | None,
    teacher: NetworkRef,
    student: NetworkRef,
    stage: Stage,
    *,
    seed: int,
    device: str,
) -> Recipe:
    """Return the recipe of one stage; with images of one's own it is another method."""
    return Recipe(
        verb="distill",
        method=method if base is None else "custom",
        teacher=teacher,
        student=student,
        stages=(stage,),
        seed=seed,
        device=device,
    )


def smaller(
    verb: Verb,
    network: NetworkRef,
    contract: InputContract,
    changes: Sequence[Change],
    *,
    transfer: Source | None = None,
    steps: int,
    train_batchnorm: bool = False,
) -> Recipe:
    """Change a network, then let it learn from what it was: soft targets, T = 20, a small rate.

    The steps are divided evenly among the changes. The rate is a tenth of what a network from
    scratch gets, and BatchNorm keeps the statistics of the data that are not here; so it does not
    hold activations in bounds, and without a clip of the gradient the first steps can diverge.

    Args:
        transfer: what is shown in place of the shader recipe's images.
        train_batchnorm: let BatchNorm take the statistics of the transfer set.
    """
    taught = shader_kd(network, network, contract, base=transfer).stages[0]
    each, rest = divmod(steps, len(changes))
    stages = []
    for i, change in enumerate(changes):
        settings = replace(
            taught.fit,
            steps=each + (i < rest),
            learning_rate=0.1 * taught.fit.learning_rate,
            gradient_clip=1.0,
            precision="float32",
        )
        rules = () if train_batchnorm else (FrozenBatchNorm(),)
        stages.append(replace(taught, fit=settings, rules=rules, change=change))
    return Recipe(verb=verb, teacher=network, student=network, stages=tuple(stages))


METHODS: dict[str, Callable[..., Recipe]] = {
    "shader-kd": shader_kd,
    "surrogate-kd": surrogate_kd,
    "deep-inversion": deep_inversion,
    "adaptive-deep-inversion": adaptive_deep_inversion,
    "dfad": dfad,
    "rdskd": rdskd,
    "activation-boundary": activation_boundary,
    "sequence-kd": sequence_kd,
    "fast-meta": fast_meta,
    "autoaugment-kd": autoaugment_kd,
}
