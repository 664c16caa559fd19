"""The exponential moving average of a student's weights, which becomes the student."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average_of(student: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return the average to be kept, or None without a decay."""
    if decay is None:
        return None
    # The student's own buffers (BatchNorm statistics) are averages already, and are copied.
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch's
    return AveragedModel(student, multi_avg_fn=average, use_buffers=False)


def check_average(average: AveragedModel, student: nn.Module) -> None:
    """Raise if the student has parameters that the average does not have."""
    averaged = {name for name, _ in average.module.named_parameters()}
    if added := sorted({name for name, _ in student.named_parameters()} - averaged):
        raise ValueError(
            f"ema_decay averages the student as it came, but a rule has added {', '.join(added)}; "
            "leave ema_decay or the rule out"
        )
