"""`doctor`: the capabilities of this machine, and the command that adds each missing one."""

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch

from doublure.core.optional import how_to_add, reason_absent

_REQUIRED = ("numpy", "pillow", "onnxruntime", "safetensors")
_OPTIONAL = {
    "timm": "REFs timm/NAME and hf:ORG/NAME",
    "torchvision": "REFs torchvision/NAME",
    "huggingface_hub": "REFs hf:ORG/NAME",
    "tokenizers": "networks that translate",
    "sacrebleu": "BLEU of translations",
    "torch.utils.tensorboard": "curves in TensorBoard",
}


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A capability of a machine.

    Args:
        detail: what is available, or why it is not.
        add: the command that adds it; None if it is available or cannot be added.
    """

    name: str
    there: bool
    detail: str
    add: str | None = None


def doctor() -> list[dict[str, Any]]:
    """Return the capabilities of this machine: name, there, detail, add."""
    return [asdict(offer) for offer in (*_base(), _cuda(), _bfloat16(), _opengl(), *_extras())]


def _base() -> list[Offer]:
    cores = f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    system = f"{platform.system()} {platform.machine()}"
    made = [Offer(name="machine", there=True, detail=f"{system}, {cores}")]
    versions = [f"{name} {metadata.version(name)}" for name in _REQUIRED]
    versions.insert(0, f"torch {torch.__version__}")
    python = f"python {platform.python_version()}"
    made.append(Offer(name="packages", there=True, detail=", ".join([python, *versions])))
    return made


def _cuda() -> Offer:
    if torch.cuda.is_available():
        return Offer(name="CUDA", there=True, detail=torch.cuda.get_device_name(0))
    built = torch.version.cuda
    if built is None:
        add = "pip install torch (its default Linux build has CUDA)"
        return Offer(name="CUDA", there=False, detail="this torch is built without CUDA", add=add)
    return Offer(name="CUDA", there=False, detail=f"torch has CUDA {built}, but sees no device")


def _bfloat16() -> Offer:
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    detail = "fast here, and the default of recipes" if fast else "slow here; recipes use float32"
    return Offer(name="bfloat16", there=fast, detail=detail)


def _opengl() -> Offer:
    add = how_to_add("moderngl")
    reason = reason_absent("moderngl")
    if reason is not None:
        return Offer(name="OpenGL", there=False, detail=reason, add=add)
    import moderngl

    try:
        context = moderngl.create_context(standalone=True, backend="egl")  # type: ignore[arg-type]  # its stub
    except Exception as error:  # drivers raise various errors; the message is the result
        return Offer(name="OpenGL", there=False, detail=f"no EGL context: {error}", add=add)
    detail = f"{context.info['GL_RENDERER']}, OpenGL {context.version_code / 100:.1f}"
    context.release()
    return Offer(name="OpenGL", there=True, detail=detail)


def _extras() -> list[Offer]:
    made = []
    for name, purpose in _OPTIONAL.items():
        reason = reason_absent(name)
        there = reason is None
        add = None if there else how_to_add(name)
        made.append(Offer(name=name, there=there, detail=reason or purpose, add=add))
    return made
