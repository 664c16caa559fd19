"""Published recipes: functions that return the stages of a method, and their table.

Defaults are the paper's if it states them; others are ours, as noted on the method's page. Settings
that depend on the machine (precision) or on the image size are decided here, once, and the recipe
file has their values.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast, get_args

from torch import nn

from doublure import tasks
from doublure.compress.batch_norm_scale import BatchNormScale
from doublure.core.checks import one_of
from doublure.core.protocols import InputContract, Source
from doublure.engine.fit import FitSettings
from doublure.engine.method import Method, MethodInputs
from doublure.engine.optimizers import SGD, AdamW
from doublure.engine.parameter_groups import ParameterGroup, undecayed_vectors
from doublure.engine.plugins import task_of
from doublure.engine.recipe import ModelTransform, Recipe, Stage, Verb
from doublure.engine.schedules import Cosine
from doublure.nets.precision import fast_precision
from doublure.nets.references import NetworkRef
from doublure.objectives.activation_boundaries import ActivationBoundaries
from doublure.objectives.logit_l1 import LogitL1
from doublure.objectives.soft_targets import SoftTargets
from doublure.rules.frozen_batchnorm import FrozenBatchNorm
from doublure.rules.learned_normalisation import LearnedNormalisation
from doublure.rules.pooled_filters import Filters, PooledFilters
from doublure.sources.adversarial import Adversarial
from doublure.sources.augmentation import PUBLISHED as AUGMENTATIONS
from doublure.sources.augmentation import Augmented
from doublure.sources.augmenting import shifts_and_flips
from doublure.sources.balanced import Balanced
from doublure.sources.deep_inversion import settings_for
from doublure.sources.dfad import DFAD
from doublure.sources.fast_meta import FastMeta
from doublure.sources.interleaved import Interleaved
from doublure.sources.matched import Matched
from doublure.sources.mixing import Mixed
from doublure.sources.rdskd import RDSKD
from doublure.sources.replay import Replay
from doublure.sources.shaders import Shaders
from doublure.tasks.classification import auto
from doublure.tasks.classification.recipes import autoaugment_kd

# Parts of the shader recipe that can be omitted, for ablations.
PARTS = ("matching", "balance", "augmentation", "mixup", "attack")
# The parts that also apply to given images.
_OF_IMAGES = ("augmentation", "mixup")

# Share of the steps for activation boundaries; the paper does not report it.
_INITIALISED = 0.1

BATCH_NORMS = ("standard", "revisited")
# Published: the learning rate of the scales is 1/100 of the others'.
_SCALE_RATE = 0.01

# Below this side in pixels, crops and mixing leave nothing to recognise: both are omitted.
_TINY = 16


def shader_kd(inputs: MethodInputs) -> tuple[Stage, ...]:
    """Matched, balanced shader images, heavily augmented, mixed and attacked; soft targets, T = 20.

    Frank, Davis: arXiv:2310.13782; settings of their arXiv:2411.12817 where those are known.
    """
    return (_augmented_and_mixed(inputs, "extreme", temperature=20.0),)


def surrogate_kd(inputs: MethodInputs) -> tuple[Stage, ...]:
    """The same with any given images; mixup always, soft targets at T = 2, no attack.

    Frank, Davis: What Makes a Good Dataset for Knowledge Distillation?, arXiv:2411.12817.
    """
    left_out = inputs.without | set(PARTS).difference(_OF_IMAGES)
    return (_augmented_and_mixed(replace(inputs, without=left_out), "standard", temperature=2.0),)


def _augmented_and_mixed(inputs: MethodInputs, augmentation: str, temperature: float) -> Stage:
    """Return shader images, or the given ones, with all parts that are not omitted."""
    tiny = min(inputs.image_contract.size) < _TINY
    precision = fast_precision(inputs.device)
    source = inputs.base or Shaders()
    if "matching" not in inputs.without:
        source = Matched(source=source)
    if "balance" not in inputs.without:
        # Below 16 uses, an image costs more to draw than to learn from.
        source = Balanced(source=source, precision=precision, least_showings=16, fill_every=2)
    if "augmentation" not in inputs.without and not tiny:
        source = Augmented(source=source, augmentation=AUGMENTATIONS[augmentation])
    if "mixup" not in inputs.without and not tiny:
        source = Mixed(source=source)
    if "attack" not in inputs.without:
        source = Adversarial(source=source)
    return Stage(
        source=source,
        objective=SoftTargets(temperature=temperature),
        fit=FitSettings(precision=precision),
    )


def activation_boundary(inputs: MethodInputs) -> tuple[Stage, ...]:
    """A tenth of the steps by activation boundaries, then soft targets at T = 3, a new optimizer.

    Heo, Lee, Yun, Choi: arXiv:1811.03233. The transfer set is that of shader-kd, or of surrogate-kd
    for given images.
    """
    (stage,) = shader_kd(inputs) if inputs.base is None else surrogate_kd(inputs)
    begun = max(1, round(_INITIALISED * stage.fit.steps))
    return tuple(
        replace(stage, objective=objective, fit=replace(stage.fit, steps=steps))
        for objective, steps in (
            (ActivationBoundaries(), begun),
            (SoftTargets(temperature=3.0), stage.fit.steps - begun),
        )
    )


def dfad(inputs: MethodInputs) -> tuple[Stage, ...]:
    """A generator trained against the student, both with the absolute difference of logits.

    Fang et al.: arXiv:1912.11006, their CIFAR setting; the student's cosine is ours.
    """
    stage = Stage(
        source=inputs.base or DFAD(),
        objective=LogitL1(),
        # The rounding of half precision is as large as the final difference of the two.
        fit=FitSettings(optimizer=SGD(nesterov=False), schedule=Cosine(warmup=0.0)),
    )
    return (stage,)


def rdskd(inputs: MethodInputs) -> tuple[Stage, ...]:
    """A generator trained on the teacher alone, then a student on its images; T = 10, Adam.

    Han et al.: arXiv:2011.03749; the cosine is ours.
    """
    fit = FitSettings(
        batch_size=512,
        optimizer=AdamW(),
        learning_rate=2e-3,
        weight_decay=0.0,
        schedule=Cosine(warmup=0.0),
        precision=fast_precision(inputs.device),
    )
    objective = SoftTargets(temperature=10.0)
    return (Stage(source=inputs.base or RDSKD(), objective=objective, fit=fit),)


def deep_inversion(inputs: MethodInputs) -> tuple[Stage, ...]:
    """Images inverted from the teacher, one new batch every 50 steps, T = 3.

    Yin et al.: arXiv:1912.08795; the cosine and the weight decay are ours.
    """
    return _replayed(inputs, settings_for(inputs.image_contract))


def adaptive_deep_inversion(inputs: MethodInputs) -> tuple[Stage, ...]:
    """The same with images on which the current student disagrees with the teacher."""
    return _replayed(inputs, settings_for(inputs.image_contract, adaptive=True))


def _replayed(inputs: MethodInputs, inverted: Source) -> tuple[Stage, ...]:
    stage = Stage(
        source=Replay(source=inputs.base or inverted),
        objective=SoftTargets(temperature=3.0),
        fit=FitSettings(precision=fast_precision(inputs.device)),
    )
    return (stage,)


def fast_meta(inputs: MethodInputs) -> tuple[Stage, ...]:
    """Five steps of a generator for each batch, 20 batches and one more every 400 steps; T = 20.

    Fang et al.: arXiv:2112.06253. The teacher sees images with random shifts of 1/8 of the side,
    the published 4 pixels of 32, and with flips if they are coloured; above 16 pixels, so does the
    student.
    """
    mild = shifts_and_flips(inputs.image_contract)
    source = inputs.base or FastMeta(shift=mild.shift, flip=mild.flip)
    source = Replay(source=source, every=400, first=20)
    if min(inputs.image_contract.size) >= _TINY:
        source = Augmented(source=source, augmentation=mild)
    fit = FitSettings(
        learning_rate=0.2,
        weight_decay=1e-4,
        optimizer=SGD(nesterov=False),
        schedule=Cosine(warmup=0.0),
        precision=fast_precision(inputs.device),
    )
    return (Stage(source=source, objective=SoftTargets(temperature=20.0), fit=fit),)


_OF_CLASSIFIERS = (
    Method(
        name="auto",
        stages=auto.auto,
        parts=auto.PARTS,
        plan=auto.plan,
        open=True,
        uses_few=True,
    ),
    Method(name="shader-kd", stages=shader_kd, parts=PARTS),
    Method(
        name="surrogate-kd",
        stages=surrogate_kd,
        needs="images",
        parts=_OF_IMAGES,
    ),
    Method(name="deep-inversion", stages=deep_inversion),
    Method(name="adaptive-deep-inversion", stages=adaptive_deep_inversion),
    Method(name="dfad", stages=dfad),
    Method(name="rdskd", stages=rdskd),
    Method(name="activation-boundary", stages=activation_boundary, parts=PARTS),
    Method(name="fast-meta", stages=fast_meta),
    Method(
        name="autoaugment-kd",
        stages=autoaugment_kd,
        needs="labels",
        parts=("augmentation",),
    ),
)


def methods(task: str = "") -> dict[str, Method]:
    """Return all methods by name: those of classifiers, and those of tasks.

    Args:
        task: if several methods have the same name, return the one of this task.
    """
    found = {method.name: replace(method, tasks=("classification",)) for method in _OF_CLASSIFIERS}
    for owner in tasks.TASKS:
        own = {method.name: replace(method, tasks=(owner.name,)) for method in owner.methods}
        found = found | own if owner.name == task else own | found
    return found


METHODS = methods()


def published(
    method: str, teacher: NetworkRef, student: NetworkRef, inputs: MethodInputs, *, seed: int = 0
) -> Recipe:
    """Return the recipe of a method by its name."""
    known = methods(inputs.task)
    return known[one_of("method", method, known)].recipe(teacher, student, inputs, seed=seed)


def smaller(
    verb: Verb,
    network: NetworkRef,
    contract: InputContract,
    changes: Sequence[ModelTransform],
    *,
    transfer: Source | None = None,
    steps: int,
    train_batchnorm: bool = False,
) -> Recipe:
    """Transform a network, then distil the original: soft targets, T = 20, a small learning rate.

    The steps are divided evenly among the transforms. The rate is 1/10 of that from scratch, and
    BatchNorm keeps the statistics of the missing data; so it does not bound activations, and
    without gradient clipping the first steps can diverge.

    Args:
        transfer: transfer set in place of the shader recipe's images.
        train_batchnorm: update BatchNorm statistics on the transfer set.
    """
    known = methods(task_of(tasks.TASKS, contract).name)
    (taught,) = known["shader-kd"].stages(MethodInputs(contract=contract, base=transfer))
    each, rest = divmod(steps, len(changes))
    stages = []
    for i, model_transform in enumerate(changes):
        settings = replace(
            taught.fit,
            steps=each + (i < rest),
            learning_rate=0.1 * taught.fit.learning_rate,
            gradient_clip=1.0,
            precision="float32",
        )
        rules = () if train_batchnorm else (FrozenBatchNorm(),)
        stages.append(replace(taught, fit=settings, rules=rules, model_transform=model_transform))
    return Recipe(verb=verb, teacher=network, student=network, stages=tuple(stages))


def with_batch_norm(recipe: Recipe, student: nn.Module, kind: str) -> Recipe:
    """Return the recipe with BatchNorm initialised and trained as published, or as its baseline.

    "revisited" (Davis, Frank: arXiv:2110.13989): scales begin at 0.1 and learn at a hundredth of
    the rate, and the first stage learns mean and std. "standard": scales begin at 1. In both,
    scales, shifts and biases do not decay, as a comparison must have it.

    Raises:
        ValueError: the student begins with weights of its teacher.
    """
    one_of("batch_norm", kind, BATCH_NORMS)
    if kind == "standard":
        groups = undecayed_vectors(student, batchnorm_rate=1.0)
        return replace(recipe, stages=tuple(_grouped(stage, groups) for stage in recipe.stages))
    if any(stage.init is not None for stage in recipe.stages):
        raise ValueError(
            "--batch-norm revisited is for weights from scratch, and this student begins with "
            "its teacher's; add --from-scratch, or leave --batch-norm out"
        )
    groups = undecayed_vectors(student, batchnorm_rate=_SCALE_RATE)
    first, *others = (_grouped(stage, groups) for stage in recipe.stages)
    scaled = BatchNormScale()
    first = replace(
        first,
        model_transform=ModelTransform(transform=scaled),
        rules=(*first.rules, LearnedNormalisation(scale=scaled.scale)),
    )
    return replace(recipe, stages=(first, *others))


def _grouped(stage: Stage, groups: tuple[ParameterGroup, ...]) -> Stage:
    return replace(stage, fit=replace(stage.fit, groups=(*stage.fit.groups, *groups)))


def with_interleaving(recipe: Recipe, share: float | None, filters: str | None = None) -> Recipe:
    """Return the recipe with a share of steps at half size; see `sources.interleaved`.

    Args:
        share: None leaves the recipe as it is.
        filters: of `rules.pooled_filters.PooledFilters`, None for its own default.
    """
    if share is None:
        if filters is not None:
            raise ValueError("--interleave-filters is for steps at half size; add --interleave")
        return recipe
    pooled = PooledFilters()
    if filters is not None:
        known = one_of("interleave_filters", filters, get_args(Filters))
        pooled = replace(pooled, pooling=cast(Filters, known))
    stages = tuple(
        replace(
            stage,
            source=Interleaved(source=stage.source, share=share),
            rules=(*stage.rules, pooled),
            ring=None if share > 0 else stage.ring,
        )
        for stage in recipe.stages
    )
    asked_again = share > 0 and any(stage.ring is not None for stage in recipe.stages)
    told = ("answers are not shown again: images change their size",) if asked_again else ()
    return replace(recipe, stages=stages, plan=(*recipe.plan, *told))
