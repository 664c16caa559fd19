"""From a reference to a translator: vocabularies, architecture, weights.

A translator inherits its vocabularies from the network it shall be like, from its student.json, or
has them learned from parallel text (`NetworkRef.vocabulary`), which is the same each time.
"""

from collections.abc import Mapping

from torch import Tensor

from doublure.data.parallel_text import contract_of, open_text
from doublure.nets.builtin import build_translator
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.protocols import TextContract


def text_contract(said: NetworkRef, like: TextContract | None) -> TextContract:
    """Return the contract that a reference to a new translator stands for."""
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


def assemble_translator(
    target: str,
    reference: str,
    contract: TextContract,
    state: Mapping[str, Tensor] | None,
    weights: str,
) -> Network[TextContract]:
    """Return the built-in translator `target`, with the weights of `state` if there are any."""
    body = build_translator(target, len(contract.source), len(contract.target))
    if state is not None:
        try:
            body.load_state_dict(dict(state))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{weights} does not fit {reference}: {reason}") from error
    return Network(body, contract, reference)
