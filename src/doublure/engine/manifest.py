"""The environment of a run: versions, threads, kind of device, seeds and hashes of its inputs.

Enough to explain why two runs differ, without identifying the machine: no host name, no user, no
paths except those that the user typed.
"""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    *("doublure", "torch", "numpy", "pillow", "safetensors", "scikit-learn", "accelerate"),
    *("onnx", "onnxscript", "onnxruntime", "timm", "torchvision"),
)
# Environment variables that affect results or speed.
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "DOUBLURE_THREADS")
_CHUNK = 1 << 20


def run_manifest(
    *,
    seeds: Mapping[str, int],
    inputs: Sequence[str],
    device: torch.device,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of `manifest.json`.

    Args:
        inputs: files and folders as the user named them; others are omitted.
        command: the command line.
    """
    return {
        "command": list(command),
        "seeds": dict(seeds),
        "inputs": {name: hash_input(Path(name)) for name in inputs if Path(name).exists()},
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": {"system": platform.system(), "machine": platform.machine()},
        "device": _device(device),
        "threads": {"torch": torch.get_num_threads(), "processors": os.cpu_count()},
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "determinism": {
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
    }


def hash_input(path: Path) -> dict[str, Any]:
    """Return the SHA-256 of a file; of a folder, that of its files' relative names and sizes."""
    if path.is_file():
        return {"sha256": _hash_file(path), "bytes": path.stat().st_size}
    files = sorted(item for item in path.rglob("*") if item.is_file())
    listing = hashlib.sha256()
    size = 0
    for file in files:
        bytes_here = file.stat().st_size
        listing.update(f"{file.relative_to(path).as_posix()}\0{bytes_here}\n".encode())
        size += bytes_here
    return {"sha256_of_listing": listing.hexdigest(), "files": len(files), "bytes": size}


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a missing extra was not used
    # Which tells what torch was built for; what is installed under its name may not.
    return found | {"torch": torch.__version__}


def _device(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {"kind": "cuda", "name": torch.cuda.get_device_name(device)}
    return {"kind": device.type, "name": torch.backends.cpu.get_cpu_capability()}
