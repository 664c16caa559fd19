"""A generator on disk: weights in generator.safetensors, their description in generator.json.

Neither file can run code. The description is checked against the settings class of its networks,
and has the digest of its weights, so that a mismatched pair is detected.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from doublure.core.checks import one_of
from doublure.data.checkpoints import CheckpointError, existing_file, read_safetensors

WEIGHTS = "generator.safetensors"
DESCRIPTION = "generator.json"
_VERSION = 1
_KEYS = {"format_version", "method", "plan", "sha256"}


def is_generator(path: str | Path) -> bool:
    """Return whether `path` is the folder or the description of a finished generator."""
    path = Path(path)
    return path.name == DESCRIPTION if path.is_file() else (path / DESCRIPTION).is_file()


def generator_files(
    method: str, plan: Mapping[str, Any], state: Mapping[str, Tensor]
) -> dict[str, bytes]:
    """Return the content of both files by name, the description last; write them in that order."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    weights = safetensors.torch.save(plain, metadata={"format": "pt"})
    told = {
        "format_version": _VERSION,
        "method": method,
        "plan": dict(plan),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = json.dumps(told, indent=2, sort_keys=True, allow_nan=False) + "\n"
    return {WEIGHTS: weights, DESCRIPTION: text.encode()}


def read_generator(path: str | Path, method: str, plan: type) -> tuple[Any, dict[str, Tensor]]:
    """Return the plan of a generator's networks and their weights.

    Args:
        path: the folder of its run, or its generator.json.
        plan: settings class for the validation of the description.

    Raises:
        CheckpointError: a file is missing or damaged, or the digest does not match.
    """
    path = Path(path)
    if path.is_dir():
        path = path / DESCRIPTION
    if not is_generator(path):
        raise CheckpointError(
            f"{path} is not there: no generator was finished in its folder; make one with "
            "`doublure train-generator lcw`, or finish it with --resume"
        )
    told = _described(path)
    if told["method"] != method:
        raise CheckpointError(f"{path} is a generator of {told['method']!r}, not of {method!r}")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(plan)
        for key in told["plan"]:
            one_of("key", key, plan.__annotations__)
        made = adapter.validate_python(told["plan"])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path}: {place or 'plan'}: {first['msg']}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    weights = existing_file(path.with_name(WEIGHTS))
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != told["sha256"]:
        raise CheckpointError(
            f"{weights} is not what {path.name} was written with (sha256 {found[:12]}, expected "
            f"{told['sha256'][:12]}); writing was cut short or a file was exchanged"
        )
    return made, read_safetensors(weights)


def _described(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it") from error
    if not isinstance(told, dict) or told.keys() != _KEYS or not isinstance(told["plan"], dict):
        raise CheckpointError(f"{path} does not describe a generator; doublure did not write it")
    if told["format_version"] != _VERSION:
        raise CheckpointError(
            f"{path} has format_version {told['format_version']!r}, this doublure reads "
            f"{_VERSION}; use the version that wrote it, or a newer one"
        )
    return told
