"""Augmentations by name, which replace the augmentation of a recipe.

"mild" is random shifts and flips; "randaugment" adds two random operations; "autoaugment" adds
a random pair from the published search result, and a cutout hole.
"""

from collections.abc import Callable
from dataclasses import replace

from doublure.core.checks import one_of
from doublure.core.protocols import InputContract, Source
from doublure.sources.adversarial import Adversarial
from doublure.sources.augmentation import PUBLISHED, Augmentation, Augmented
from doublure.sources.autoaugment import AutoAugmented
from doublure.sources.mixing import Mixed


def shifts_and_flips(contract: InputContract) -> Augmentation:
    """Return shifts by up to 1/8 of the side, and flips for colour images only.

    Grey images are often characters or scans, whose meaning a flip can change.
    """
    flip = 0.5 if contract.channels == 3 else 0.0
    return replace(PUBLISHED["mild"], shift=min(contract.size) // 8, flip=flip)


def augmented(source: Source, name: str, contract: InputContract) -> Source:
    """Return a source with an augmentation of `AUGMENTERS` instead of its own.

    Wrappers that mix or attack images stay outside of it, those that balance or match them inside.
    """
    augment = AUGMENTERS[one_of("augmentation", name, AUGMENTERS)]
    if isinstance(source, Mixed | Adversarial):
        return replace(source, source=augmented(source.source, name, contract))
    while isinstance(source, Augmented | AutoAugmented):
        source = source.source
    return augment(source, contract)


def _randaugment(source: Source, contract: InputContract) -> Source:
    operations = replace(shifts_and_flips(contract), num_operations=2, padding="reflection")
    return Augmented(source=source, augmentation=operations)


def _autoaugment(source: Source, contract: InputContract) -> Source:
    return AutoAugmented(source=Augmented(source=source, augmentation=shifts_and_flips(contract)))


# The values of --augment.
AUGMENTERS: dict[str, Callable[[Source, InputContract], Source]] = {
    "mild": lambda source, contract: Augmented(
        source=source, augmentation=shifts_and_flips(contract)
    ),
    "randaugment": _randaugment,
    "autoaugment": _autoaugment,
}
