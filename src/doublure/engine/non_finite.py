"""A training that has diverged ends with an error; what was saved before stays."""

import torch
from torch import nn


class NonFiniteLossError(ArithmeticError):
    """A term of the loss became NaN or infinite; the message names step and term."""


class NonFiniteWeightsError(ArithmeticError):
    """A weight or statistic became NaN or infinite; the message names step and tensor."""


def check_weights(student: nn.Module, step: int) -> None:
    """Raise if a weight or a buffer of a network is NaN or infinite after so many steps.

    Raises:
        NonFiniteWeightsError: with the first such tensor.
    """
    state = {n: v for n, v in student.state_dict().items() if v.is_floating_point()}
    if not state:
        return
    finite = torch.stack([value.isfinite().all() for value in state.values()])
    if finite.all():  # one transfer from the device
        return
    name = list(state)[int(finite.logical_not().nonzero()[0])]
    raise NonFiniteWeightsError(
        f"'{name}' holds NaN or infinity after step {step}: the training diverged, and the student "
        "was not saved. Lower --lr, or --set fit.gradient_clip=1"
    )
