"""Checks of a network's logits, and of the match between teacher and student."""

from typing import Any

import torch
from torch import Tensor

from doublure.core.protocols import InputContract
from doublure.data.checkpoints import first_line
from doublure.nets.doubts import ONE_NUMBER, doubts
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze


def check_logits(role: str, network: Network) -> list[str]:
    """Raise unless a black image gives one logit per class; return doubts.

    Args:
        role: "teacher" or "student", for messages.
    """
    contract = network.contract
    if contract.classes == 1:
        raise ValueError(f"the {role} {ONE_NUMBER}")
    image = contract.blank(1, device_of(network))
    shape = " x ".join(str(side) for side in image.shape[1:])
    try:
        with torch.no_grad():
            output = freeze(network)(image)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"the {role} does not take an image of {shape} ({first_line(error)}); set its size and "
            f"channels"
        ) from error
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the {role} returns {_in_words(output)}, not logits; wrap it in a module whose "
            f"forward returns one tensor of shape (batch, classes)"
        )
    if output.shape != (1, contract.classes):
        raise ValueError(
            f"the {role} returns {tuple(output.shape[1:])} numbers per image, but its contract has "
            f"{contract.classes} classes"
        )
    return [f"{role}: {doubt}" for doubt in doubts(network, output)]


def check_same_classes(
    teacher: InputContract, student: InputContract, *, own_label_space: bool
) -> None:
    """Raise unless the two have the same images and number of classes.

    Args:
        own_label_space: whether the student has its own classes.
    """
    for name in ("channels",) if own_label_space else ("classes", "channels"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ValueError(
                f"the student has {ours} {name}, its teacher {theirs}; "
                "a student is compared with its teacher on the same images, class by class, unless "
                "layers alone are compared and --student-classes says so"
            )


def _in_words(output: Any) -> str:
    if isinstance(output, dict):
        return f"a dict ({', '.join(map(str, output))})"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"
