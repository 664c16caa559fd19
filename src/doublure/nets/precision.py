"""The precision of a network's computation: the fast one of a machine, or full float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def fast_precision(device: str) -> Precision:
    """Return bfloat16 if the machine computes faster with it than with float32."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    # A caller's autocast would apply here too, and TF32 has 10 of float32's 23 mantissa bits.
    cudnn, matmul = torch.backends.cudnn, torch.get_float32_matmul_precision()
    kept = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(**kept, allow_tf32=False), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
