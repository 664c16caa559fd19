"""A student on disk: weights in student.safetensors, their description in student.json.

The weights have the architecture's own keys, the description has timm's names. Weights of few bits
are packed in two to eight bits each (`core.bit_packing`). student.json has the digest of its
weights, so that a mismatched pair is detected.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from doublure.core.checks import one_of
from doublure.core.protocols import InputContract
from doublure.data.checkpoints import CheckpointError, existing_file, read_safetensors
from doublure.data.own_files import make_folder, whole_file

WEIGHTS = "student.safetensors"
DESCRIPTION = "student.json"
_VERSION = 1
_VERSION_KEY, _DIGEST_KEY, _TASK_KEY = "format_version", "sha256", "task"


@dataclass(frozen=True, kw_only=True)
class ImageDescription:
    """The description in student.json of a network with one image as input.

    The names are those of timm's `pretrained_cfg`.

    Args:
        architecture: the REF that builds the network, "" if it was built in Python.
        input_size: channels, height, width.
        plan: records of changes to the architecture (pruned, quantized, ensembled), in order, which
            rebuild the network without a pickle.
    """

    # Strict: a number in quotes is an error.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    architecture: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int]
    interpolation: str
    crop_pct: float
    num_classes: int
    label_names: tuple[str, ...] | None = None
    output: str = "classes"
    plan: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        _ = self.contract  # which checks the values

    @classmethod
    def of(
        cls, contract: InputContract, architecture: str, plan: tuple[dict[str, Any], ...] = ()
    ) -> "ImageDescription":
        """Return the description of a network with this contract."""
        return cls(
            architecture=architecture,
            mean=tuple(float(value) for value in contract.mean),
            std=tuple(float(value) for value in contract.std),
            input_size=(contract.channels, *contract.size),
            interpolation=contract.interpolation,
            crop_pct=contract.crop_pct,
            num_classes=contract.classes,
            label_names=contract.names,
            output=contract.output,
            plan=plan,
        )

    @property
    def contract(self) -> InputContract:
        """The description as an input contract."""
        channels, height, width = self.input_size
        return InputContract(
            size=(height, width),
            channels=channels,
            mean=self.mean,
            std=self.std,
            classes=self.num_classes,
            names=self.label_names,
            output=self.output,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
        )


def to_json(task: str, description: Any, digest: str) -> str:
    """Return the text of student.json; equal content gives equal text.

    Args:
        task: the name of the task that the network is for.
        description: a dataclass of that task.
    """
    known = {_TASK_KEY: task, _VERSION_KEY: _VERSION, _DIGEST_KEY: digest}
    values = {**asdict(description), **known}
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class Student:
    """The content of student.json: task, description of the network, digest of the weights."""

    task: str
    description: Any
    digest: str


def from_json(text: str, where: str, descriptions: Mapping[str, type]) -> Student:
    """Return the parsed text of a student.json.

    Args:
        where: the file, for messages.
        descriptions: the description class of each task.

    Raises:
        CheckpointError: it is not JSON, has another version or an unknown task, or missing, unknown
            or wrong keys.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON ({error}); restore it") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} holds a {type(values).__name__}, not an object; restore it")
    version = values.pop(_VERSION_KEY, None)
    if version != _VERSION:
        raise CheckpointError(
            f"{where} has {_VERSION_KEY} {version!r}, this doublure reads {_VERSION}; "
            "use the version that wrote it, or a newer one"
        )
    digest = values.pop(_DIGEST_KEY, None)
    if not isinstance(digest, str):
        raise CheckpointError(f"{where} lacks '{_DIGEST_KEY}'; it was not written by doublure")
    task = values.pop(_TASK_KEY, None)
    if task not in descriptions:
        raise CheckpointError(
            f"{where} is of the task {task!r}, known: {', '.join(descriptions)}; add it to "
            "doublure.tasks.TASKS, or restore the file"
        )
    kind = descriptions[task]
    known = [field.name for field in fields(kind)]
    try:
        for key in values:
            one_of("key", key, known)
        description: Any = TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{where}: {place or 'content'}: {first['msg']}") from error
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return Student(task=task, description=description, digest=digest)


def write_student(
    folder: str | Path, state: Mapping[str, Tensor], task: str, description: Any
) -> None:
    """Write both files atomically; if that fails, the previous files stay intact.

    Args:
        state: the architecture's own state_dict, without prefixes of wrappers.
    """
    folder = Path(folder)
    # Copies: the format refuses tied and strided tensors.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    weights = safetensors.torch.save(plain, metadata={"format": "pt"})
    text = to_json(task, description, hashlib.sha256(weights).hexdigest()).encode()
    contents = {folder / WEIGHTS: weights, folder / DESCRIPTION: text}
    try:
        make_folder(folder)
        with contextlib.ExitStack() as stack:
            # Closed in reverse: the description is put in place last.
            files = {path: stack.enter_context(whole_file(path)) for path in reversed(contents)}
            for path, content in contents.items():
                files[path].write(content)
    except OSError as error:
        raise CheckpointError(
            f"cannot write a student to {folder}: {error.strerror}; the previous files are intact"
        ) from error


def read_student(
    path: str | Path, descriptions: Mapping[str, type]
) -> tuple[dict[str, Tensor], Student]:
    """Return the weights of a student and its description.

    Args:
        path: its student.json, or the folder of that file.
        descriptions: the description class of each task.

    Raises:
        CheckpointError: a file is missing or damaged, or the digest does not match.
    """
    path = find_student(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); restore it") from error
    student = from_json(text, str(path), descriptions)
    weights = existing_file(path.with_name(WEIGHTS))
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != student.digest:
        raise CheckpointError(
            f"{weights} is not what {path.name} was written with (sha256 {found[:12]}, expected "
            f"{student.digest[:12]}); writing was cut short or a file was exchanged: resume the run"
        )
    return read_safetensors(weights), student


def find_student(path: str | Path) -> Path:
    """Return the path of student.json for a folder or file, or raise with what is there instead."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(item.name for item in path.iterdir() if item.name[0] != ".")
        if DESCRIPTION not in inside:
            listed = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "")
            raise CheckpointError(
                f"{path} holds no {DESCRIPTION}, only {listed or 'nothing'}; finish the run with "
                "--resume, or name a file of weights with --weights"
            )
        path = path / DESCRIPTION
    return existing_file(path)
