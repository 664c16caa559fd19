"""`auto`, the default: a student that inherits from its teacher, on optimised shader images.

Its parts depend on the networks and the inputs, and each choice is reported:

    images     short inversions of matched shader images, with new ones against the student while
               it learns, and a quarter of plain shader images. Without BatchNorm statistics, or
               below 16 pixels a side, shader images balanced by the teacher's answers.
               A few real images are half of what inversion begins with, and a fifth of the rest.
    beginning  the teacher's blocks and channels, repaired by least squares, where there are any.
    objective  soft targets at T = 20 with a weight of 0.3, and the stages' outputs.
    loop       AdamW at 3e-3 for a student that inherits, SGD at 0.1 for one from scratch; mixup of
               half of the images; answers of the teacher shown three times.

A budget is divided by `planning`: by `Replay.share`, 35 % of the time makes images.
The parts are others'; see `sources.short_inversion`, `compress.inherit` and their pages.
"""

from dataclasses import replace

import torch
from torch import Tensor

from doublure.compress.inherit import Inherit, share_in_common
from doublure.core.protocols import Source, innermost
from doublure.core.seeding import from_seed
from doublure.engine.answer_ring import Ring
from doublure.engine.fit import FitSettings
from doublure.engine.method import Facts, MethodInputs, normalises_layers
from doublure.engine.optimizers import AdamW
from doublure.engine.recipe import Stage
from doublure.engine.schedules import Cosine
from doublure.nets.batchnorm_statistics import batchnorm_layers
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze
from doublure.nets.precision import fast_precision
from doublure.nets.stages import find_stages
from doublure.nets.trained import check_trained
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.stage_outputs import StageOutputs
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.sources.augmentation import Augmented
from doublure.sources.augmenting import shifts_and_flips
from doublure.sources.balanced import Balanced
from doublure.sources.combined import Combined
from doublure.sources.few import Few, shown_few
from doublure.sources.matched import Matched
from doublure.sources.mixing import Mixed
from doublure.sources.noise import Noise
from doublure.sources.replay import Replay
from doublure.sources.shaders import Shaders
from doublure.sources.short_inversion import ShortInversion
from doublure.sources.surrogate import Surrogate

# Parts that can be omitted, for ablations.
PARTS = (
    "inherit",
    "least-squares",
    "inversion",
    "shader-starts",
    "mixed-starts",
    "adversarial",
    "plain-images",
    "augmentation",
    "mixup",
    "ring",
    "stage-outputs",
)
# Below this side in pixels, inversion improves shader images less than it costs.
_TINY = 16
_BATCH = 128
# Minimum share of inherited parameters; with less, training is as from scratch.
_ENOUGH_IN_COMMON = 0.25
# Share of a budget for image optimisation, half of it before the first step.
_SYNTHESIS_SHARE = 0.35
_PLAIN_SHARE = 0.25
# Shares of a few real images: of the starts of optimised ones, and of other images.
_FEW_STARTS, _FEW_SHOWN = 0.5, 0.2
_INHERITED = FitSettings(
    batch_size=_BATCH,
    optimizer=AdamW(betas=(0.9, 0.99)),
    learning_rate=3e-3,
    weight_decay=0.0,
    schedule=Cosine(warmup=0.04),
    gradient_clip=5.0,
)
_FROM_SCRATCH = FitSettings(batch_size=_BATCH)


def network_facts(teacher: Network, student: Network, *, given_weights: bool) -> Facts:
    """Return the facts on which a recipe may depend.

    Args:
        given_weights: whether the student keeps its weights.
    """
    common = share_in_common(student.body, teacher.body) >= _ENOUGH_IN_COMMON
    return Facts(
        statistics=bool(batchnorm_layers(teacher)),
        inherits=common and not given_weights and _is_trained(teacher),
        stages=_has_stages(teacher) and _has_stages(student),
        layer_norm=normalises_layers(student),
    )


def _is_trained(teacher: Network) -> bool:
    try:
        check_trained(freeze(teacher), _some_images(teacher))
    except ValueError:
        return False
    return True


def _has_stages(network: Network) -> bool:
    try:
        return bool(find_stages(network, _some_images(network)).ends)
    except (
        ValueError,
        RuntimeError,
    ):  # no layer returns a map, or the size is wrong
        return False


def _some_images(network: Network) -> Tensor:
    shape = (4, network.contract.channels, *network.contract.size)
    return torch.rand(shape, generator=from_seed(0)).to(device_of(network))


def auto(inputs: MethodInputs) -> tuple[Stage, ...]:
    """Return one stage for the networks and inputs."""
    begins = "inherit" not in inputs.without and inputs.facts.inherits
    fit = _INHERITED if begins else _FROM_SCRATCH
    stage = Stage(
        source=_shown(inputs),
        objective=_objective(inputs),
        fit=replace(fit, precision=fast_precision(inputs.device)),
        init=Inherit(repair="least-squares" not in inputs.without) if begins else None,
        ring=None if "ring" in inputs.without else Ring(),
    )
    return (stage,)


def plan(inputs: MethodInputs) -> tuple[str, ...]:
    """Return the choices and their reasons."""
    inherits = "inherit" not in inputs.without and inputs.facts.inherits
    begins = (
        "the student begins with what it can take over from its teacher"
        if inherits
        else "the student begins from scratch"
    )
    few = () if inputs.few is None else (_describe_few(inputs.few, inputs),)
    return (begins, _describe_images(inputs), *few)


def _objective(inputs: MethodInputs) -> AnyObjective:
    if "stage-outputs" in inputs.without or not inputs.facts.stages:
        return SoftTargets(temperature=20.0)
    return Weighted(terms=((0.3, SoftTargets(temperature=20.0)), (1.0, StageOutputs())))


def _on_disk(inputs: MethodInputs) -> bool:
    return inputs.base is not None and isinstance(innermost(inputs.base), Surrogate)


def _inverts(inputs: MethodInputs) -> bool:
    """Return whether images are optimised: not with real images, or where gains are too small."""
    large = min(inputs.image_contract.size) >= _TINY
    return (
        not _on_disk(inputs)
        and inputs.facts.statistics
        and large
        and "inversion" not in inputs.without
    )


def _shown(inputs: MethodInputs) -> Source:
    source = _images(inputs)
    large = min(inputs.image_contract.size) >= _TINY
    if inputs.few is not None:
        # An outer augmentation moves them, if there is one.
        few = inputs.few if large else _moved(inputs.few, inputs)
        source = Combined(sources=(source, few), shares=(1 - _FEW_SHOWN, _FEW_SHOWN))
    if "augmentation" not in inputs.without and large:
        source = Augmented(source=source, augmentation=shifts_and_flips(inputs.image_contract))
    if "mixup" not in inputs.without and large:
        source = Mixed(source=source, share=0.5)
    return source


def _images(inputs: MethodInputs) -> Source:
    if inputs.base is not None and _on_disk(inputs):
        return inputs.base
    default = Noise() if "shader-starts" in inputs.without else Shaders()
    plain = Matched(source=inputs.base or default)
    if not _inverts(inputs):
        precision = fast_precision(inputs.device)
        return Balanced(source=plain, precision=precision, least_showings=16, fill_every=2)
    search = ShortInversion(source=_starts(plain, inputs), precision=fast_precision(inputs.device))
    if "mixed-starts" in inputs.without:
        search = replace(search, mixing=0.0)
    if "adversarial" in inputs.without:
        search = replace(search, adversarial=0.0)
    pool = Replay(
        source=search,
        every=65,
        first=24,
        made_at_once=_BATCH,
        until=0.8,
        share=_SYNTHESIS_SHARE,
    )
    if "plain-images" in inputs.without:
        return pool
    return Combined(sources=(pool, plain), shares=(1 - _PLAIN_SHARE, _PLAIN_SHARE))


def _starts(plain: Source, inputs: MethodInputs) -> Source:
    """Return the starts of inversion: plain images, and a few real ones if there are any."""
    if inputs.few is None:
        return plain
    shares = (1 - _FEW_STARTS, _FEW_STARTS)
    return Combined(sources=(plain, _moved(inputs.few, inputs)), shares=shares)


def _moved(few: Few, inputs: MethodInputs) -> Source:
    """Return a few images with random shifts and flips, unless augmentation is omitted."""
    return few if "augmentation" in inputs.without else shown_few(few, inputs.image_contract)


def _describe_few(few: Few, inputs: MethodInputs) -> str:
    data = few.read(inputs.image_contract)
    starts = f"{_FEW_STARTS:.0%} of the starts of optimisation and " if _inverts(inputs) else ""
    judged = "agreement" if data.labels is None else "accuracy and agreement"
    others = f"; the others measure {judged}" if few.held_out else ""
    return (
        f"{len(data)} real images: {1 - few.held_out:.0%} of them train, as {starts}"
        f"{_FEW_SHOWN:.0%} of the other images{others}"
    )


def _describe_images(inputs: MethodInputs) -> str:
    if _on_disk(inputs):
        return "the given images are used, none are generated"
    if _inverts(inputs):
        return (
            "shader images are optimised for a few steps towards the teacher's BatchNorm "
            "statistics, a quarter is not optimised"
        )
    if not inputs.facts.statistics:
        return "the teacher has no BatchNorm statistics for image optimisation: shader images"
    return (
        "images this small are not optimised: shader images, balanced by the teacher's predictions"
    )
