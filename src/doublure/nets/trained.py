"""Check that a network is trained: its BatchNorm statistics and its outputs."""

import torch
from torch import Tensor, nn

# Outputs that vary by less than this share of their size differ by float32 rounding only.
_CONSTANT = 1e-6


def check_trained(teacher: nn.Module, images: Tensor) -> None:
    """Raise unless a network looks trained."""
    norms = [m for m in teacher.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms and all(map(_is_initial, norms)):
        raise ValueError(
            "the teacher is untrained: its BatchNorm statistics are those of a new network; give "
            "its weights, or use --from-scratch"
        )
    with torch.no_grad():
        answers = teacher(images).float()
    varies, size = float(answers.std(0).max()), float(answers.abs().max())
    if len(images) > 1 and not varies > _CONSTANT * size:
        raise ValueError(
            "the teacher's output is the same for all images, so there is nothing to inherit; give "
            "its "
            "weights, or use --from-scratch"
        )


def _is_initial(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    mean, variance, seen = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or variance is None:
        return True
    return not (mean.any() or (variance != 1).any() or (seen is not None and bool(seen)))
