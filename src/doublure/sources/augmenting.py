"""Augmentations by name, in the place of the one that a recipe has.

"mild" shifts and mirrors; "randaugment" is that and two operations drawn at random; "autoaugment"
that and the pairs a search has found, with a hole.
"""

from collections.abc import Callable
from dataclasses import replace

from doublure.core.checks import one_of
from doublure.core.protocols import InputContract, Source
from doublure.sources.adversarial import Adversarial
from doublure.sources.augmentation import PUBLISHED, Augmentation, Augmented
from doublure.sources.autoaugment import AutoAugmented
from doublure.sources.mixing import Mixed


def shifted_and_mirrored(contract: InputContract) -> Augmentation:
    """Return shifts by an eighth of the side, and mirrors of coloured images.

    Grey images are more often characters or scans, which a mirror makes into something else.
    """
    flip = 0.5 if contract.channels == 3 else 0.0
    return replace(PUBLISHED["mild"], shift=min(contract.size) // 8, flip=flip)


def augmented(source: Source, name: str, contract: InputContract) -> Source:
    """Return a source under an augmentation of `AUGMENTERS`, in the place of the one it has.

    What mixes or attacks images stays around it, what balances or matches them inside.
    """
    augment = AUGMENTERS[one_of("augmentation", name, AUGMENTERS)]
    if isinstance(source, Mixed | Adversarial):
        return replace(source, source=augmented(source.source, name, contract))
    while isinstance(source, Augmented | AutoAugmented):
        source = source.source
    return augment(source, contract)


def _randaugment(source: Source, contract: InputContract) -> Source:
    operations = replace(shifted_and_mirrored(contract), num_operations=2, padding="reflection")
    return Augmented(source=source, augmentation=operations)


def _autoaugment(source: Source, contract: InputContract) -> Source:
    return AutoAugmented(
        source=Augmented(source=source, augmentation=shifted_and_mirrored(contract))
    )


# What --augment can name.
AUGMENTERS: dict[str, Callable[[Source, InputContract], Source]] = {
    "mild": lambda source, contract: Augmented(
        source=source, augmentation=shifted_and_mirrored(contract)
    ),
    "randaugment": _randaugment,
    "autoaugment": _autoaugment,
}
