"""From a reference to a translator: vocabularies, architecture, weights.

The architectures are translator-{layers} and translator-{layers}-{width}, initialised from
torch's global generator.

A translator inherits its vocabularies from the network it is `like`, from its student.json, or
learns them from parallel text (`NetworkRef.vocabulary`), deterministically.
"""

import re

from doublure.nets.references import NetworkRef
from doublure.tasks.translation.contract import TextContract
from doublure.tasks.translation.parallel_text import contract_of, open_text
from doublure.tasks.translation.translator import Translator

_TRANSLATOR = r"translator-(\d+)(?:-(\d+))?"


# Width of a head and dropout of the base model (arXiv:1706.03762, table 3).
_HEAD, _WIDTH, _DROPOUT = 64, 256, 0.1


def is_translator(name: str) -> bool:
    """Return whether a built-in network takes text."""
    return re.fullmatch(_TRANSLATOR, name) is not None


def build_translator(name: str, source_classes: int, target_classes: int) -> Translator:
    """Return a newly initialised translator: translator-{layers} or translator-{layers}-{width}.

    Both encoder and decoder have this many layers.
    """
    numbers = re.fullmatch(_TRANSLATOR, name)
    assert numbers is not None, name
    layers, width = int(numbers[1]), int(numbers[2] or _WIDTH)
    heads = max(1, width // _HEAD)
    if layers < 1 or width < 2 or width % (2 * heads):
        raise ValueError(
            f"builtin/{name} cannot be built: a translator has at least one layer, and an even "
            f"width that {heads} heads can share"
        )
    return Translator(
        source_classes=source_classes,
        target_classes=target_classes,
        layers=layers,
        width=width,
        heads=heads,
        dropout=_DROPOUT,
    )


def text_contract(said: NetworkRef, like: TextContract | None) -> TextContract:
    """Return the contract of a reference to a new translator."""
    image = {name: getattr(said, name) for name in ("mean", "std", "size", "channels", "classes")}
    given = [name for name, value in image.items() if value is not None]
    if given:
        raise ValueError(f"{said.ref} translates text; --{given[0]} is for images: leave it out")
    if like is not None:
        return like
    if said.vocabulary is None:
        raise ValueError(
            f"nothing states the vocabulary of {said.ref}; train it on parallel text, or name a "
            "run folder that was"
        )
    text = open_text(said.vocabulary, split="train")
    return contract_of(text) if said.pieces is None else contract_of(text, said.pieces)
