"""Before the work begins: does each network answer, and do teacher and student fit together?"""

import hashlib
from typing import Any

import torch
from torch import nn

from doublure.core.protocols import BEGIN, END, InputContract, TextContract
from doublure.data.checkpoints import first_line
from doublure.nets.doubts import ONE_NUMBER, doubts
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze


def dry_run(role: str, network: Network[Any]) -> list[str]:
    """Raise unless the weights are finite and a black image, or no word, is answered as agreed.

    Args:
        role: "teacher" or "student", for messages.

    Returns:
        what a person should be warned of, one sentence each.
    """
    contract = network.contract
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"the {role}'s '{name.removeprefix('body.')}' holds values that are NaN or "
                "infinite; take an earlier checkpoint"
            )
    if isinstance(contract, TextContract):
        _dry_run_words(role, network)
        return []
    if contract.classes == 1:
        raise ValueError(f"the {role} {ONE_NUMBER}")
    image = torch.zeros(1, contract.channels, *contract.size, device=device_of(network))
    shape = " x ".join(str(side) for side in image.shape[1:])
    try:
        with torch.no_grad():
            answer = freeze(network)(image)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"the {role} does not take an image of {shape} ({first_line(error)}); "
            "say its size and channels"
        ) from error
    if isinstance(answer, torch.Tensor) and answer.shape != (1, contract.classes):
        raise ValueError(
            f"the {role} answers an image with {tuple(answer.shape[1:])} numbers, but is said to "
            f"know {contract.classes} classes"
        )
    return [f"{role}: {doubt}" for doubt in doubts(network, answer)]


def _dry_run_words(role: str, network: Network[TextContract]) -> None:
    def token(number: int) -> torch.Tensor:
        return torch.tensor([[number]], device=device_of(network))

    with torch.no_grad():
        answer = freeze(network)({"source": token(END), "prefix": token(BEGIN)})
    if answer.shape != (1, 1, network.contract.classes):
        raise ValueError(
            f"the {role} answers a token with {answer.shape[-1]} numbers, but its vocabulary has "
            f"{network.contract.classes} pieces"
        )


def check_pair(
    teacher: InputContract | TextContract,
    student: InputContract | TextContract,
    *,
    own: bool = False,
) -> None:
    """Raise unless the two take the same images, or words, and know as many classes.

    Args:
        own: the student has classes of its own.
    """
    if isinstance(teacher, TextContract) or isinstance(student, TextContract):
        if teacher != student:
            raise ValueError(
                "student and teacher must share languages and vocabularies; let the student "
                "inherit them by naming an architecture, such as builtin/translator-2"
            )
        return
    for name in ("channels",) if own else ("classes", "channels"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ValueError(
                f"the student has {ours} {name}, its teacher {theirs}; "
                "a student is compared with its teacher on the same images, class by class, unless "
                "layers alone are compared and --student-classes says so"
            )


def weights_digest(network: nn.Module) -> str:
    """Return what tells a network's weights from any others."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
