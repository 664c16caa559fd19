"""Does a network answer every pixel of an image, and do a teacher and a student fit?"""

import torch
from torch import Tensor

from doublure.core.protocols import InputContract
from doublure.data.checkpoints import first_line
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze


def check_maps(role: str, network: Network) -> list[str]:
    """Raise unless a black image is answered with logits of every class at every pixel.

    Args:
        role: "teacher" or "student", for messages.
    """
    contract = network.contract
    if contract.classes < 2:
        raise ValueError(
            f"the {role} knows one class, and among one there is nothing to tell; give it two "
            "logits a pixel, of no and of yes"
        )
    image = contract.blank(1, device_of(network))
    try:
        with torch.no_grad():
            output = freeze(network)(image)
    except (RuntimeError, ValueError, TypeError) as error:
        shape = " x ".join(str(side) for side in image.shape[1:])
        raise ValueError(
            f"the {role} does not take an image of {shape} ({first_line(error)}); "
            "say its size and channels"
        ) from error
    if not isinstance(output, Tensor):
        held = ", ".join(map(str, output)) if isinstance(output, dict) else type(output).__name__
        raise ValueError(
            f"the {role} answers an image with {held}; a segmentation network answers with one "
            "tensor of shape (batch, classes, height, width), alone or as 'out' of a dict"
        )
    if output.dim() != 4 or output.shape[1] != contract.classes:
        raise ValueError(
            f"the {role} answers an image with {tuple(output.shape[1:])}, but is said to know "
            f"{contract.classes} classes: (classes, height, width) are expected"
        )
    if output.shape[2:] != image.shape[2:]:
        raise ValueError(
            f"the {role} answers {tuple(image.shape[2:])} pixels with {tuple(output.shape[2:])}; "
            "enlarge its logits to the image's size inside of its forward"
        )
    return []


def check_same_maps(teacher: InputContract, student: InputContract) -> None:
    """Raise unless the two take the same images and know as many classes."""
    for name in ("classes", "channels"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ValueError(
                f"the student has {ours} {name}, its teacher {theirs}; a student is compared with "
                "its teacher on the same images, pixel by pixel"
            )
