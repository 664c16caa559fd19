"""`auto`, the default: a student that begins at its teacher, on images that begin as shaders.

What it is made of depends on the networks and on what is given, and each choice is told:

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
from doublure.sources.augmenting import shifted_and_mirrored
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

# What can be left out, to see what it is worth.
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
# Below this many pixels a side, what inversion adds to shader images is less than it costs.
_TINY = 16
_BATCH = 128
# Of a student's parameters; with less in common it learns as one from scratch.
_ENOUGH_IN_COMMON = 0.25
# Of a budget: images made, half of them before the first step.
_SYNTHESIS_SHARE = 0.35
_PLAIN_SHARE = 0.25
# A few real images: of the starts of optimised ones, and of what is shown.
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
    """Return what a recipe may depend on.

    Args:
        given_weights: the student's weights are to stay as they are.
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
    except (ValueError, RuntimeError):  # no layer answers with a map, or none takes such images
        return False


def _some_images(network: Network) -> Tensor:
    shape = (4, network.contract.channels, *network.contract.size)
    return torch.rand(shape, generator=from_seed(0)).to(device_of(network))


def auto(inputs: MethodInputs) -> tuple[Stage, ...]:
    """Return one stage made for the networks and for what is given."""
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
    """Return what was chosen and why."""
    inherits = "inherit" not in inputs.without and inputs.facts.inherits
    begins = (
        "the student begins with what it can take over from its teacher"
        if inherits
        else "the student begins from scratch"
    )
    few = () if inputs.few is None else (_few_told(inputs.few, inputs),)
    return (begins, _told(inputs), *few)


def _objective(inputs: MethodInputs) -> AnyObjective:
    if "stage-outputs" in inputs.without or not inputs.facts.stages:
        return SoftTargets(temperature=20.0)
    return Weighted(terms=((0.3, SoftTargets(temperature=20.0)), (1.0, StageOutputs())))


def _on_disk(inputs: MethodInputs) -> bool:
    return inputs.base is not None and isinstance(innermost(inputs.base), Surrogate)


def _inverts(inputs: MethodInputs) -> bool:
    """Whether images are optimised: not where real ones are shown, or where it does not pay."""
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
        # The augmentation around moves them where there is one.
        few = inputs.few if large else _moved(inputs.few, inputs)
        source = Combined(sources=(source, few), shares=(1 - _FEW_SHOWN, _FEW_SHOWN))
    if "augmentation" not in inputs.without and large:
        source = Augmented(source=source, augmentation=shifted_and_mirrored(inputs.image_contract))
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
    """Return what inversion begins with: plain images, and a few real ones where there are any."""
    if inputs.few is None:
        return plain
    shares = (1 - _FEW_STARTS, _FEW_STARTS)
    return Combined(sources=(plain, _moved(inputs.few, inputs)), shares=shares)


def _moved(few: Few, inputs: MethodInputs) -> Source:
    """Return a few images shifted and mirrored ever anew, unless that is left out."""
    return few if "augmentation" in inputs.without else shown_few(few, inputs.image_contract)


def _few_told(few: Few, inputs: MethodInputs) -> str:
    data = few.opened(inputs.image_contract)
    starts = f"{_FEW_STARTS:.0%} of what optimisation begins with and " if _inverts(inputs) else ""
    judged = "agreement" if data.labels is None else "accuracy and agreement"
    others = f"; the others measure {judged}" if few.held_out else ""
    return (
        f"{len(data)} real images: {1 - few.held_out:.0%} of them teach, as {starts}"
        f"{_FEW_SHOWN:.0%} of what is shown{others}"
    )


def _told(inputs: MethodInputs) -> str:
    if _on_disk(inputs):
        return "the images given are shown, none is made"
    if _inverts(inputs):
        return (
            "shader images are optimised for a few steps towards the teacher's BatchNorm "
            "statistics, a quarter is shown as it is"
        )
    if not inputs.facts.statistics:
        return "the teacher holds no BatchNorm statistics to optimise images by: shader images"
    return "images this small are not optimised: shader images, balanced by the teacher's answers"
