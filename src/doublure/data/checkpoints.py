"""From a file of weights to tensors by name, without running code from the file.

Pickles are read as data (`pickle_contents`): what is no tensor or plain container is set aside.
What a checkpoint wraps around its weights (epoch, optimizer, EMA) is taken off; names stay.
"""

import math
import pickle
import struct
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from doublure.core.bit_packing import unpack_weights
from doublure.data.pickle_contents import Placeholder
from doublure.data.torch_archive import (
    ZIP,
    ForeignPickleError,
    StoredTensor,
    read_archive,
    read_tensors,
)
from doublure.data.weight_sets import WeightSet, find_sets, objects_in

PICKLED = frozenset({".pt", ".pth", ".th", ".bin", ".ckpt", ".tar"})
SAFE = ".safetensors"
PROGRAM = ".pt2"

# Tensors that are neither dense nor float, as pickles call them.
_NOT_PLAIN = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_meta_tensor_no_storage": "without values (on the meta device)",
    "torch._utils._rebuild_nested_tensor": "nested",
}
# Repeated views (masks, position ids) may hold more values than the file, but not much more.
_REPEATED = 64 << 20
_NAMED, _MOST_LISTED = 4, 12
_DENSE = "save the dense float weights"

# Exceptions of torch's and safetensors' readers on damaged or hostile bytes; they have no common
# class.
DAMAGE = (
    *(pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, struct.error, EOFError, OSError),
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(AssertionError, MemoryError, SyntaxError),
)
_RESAVE = (
    "re-save only the weights where it was made: torch.save(model.state_dict(), 'weights.pth'), "
    "or safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a file of weights holds.

    Args:
        tensors: by their names in the file.
        notes: what a person should be told, one sentence each.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


class CheckpointError(ValueError):
    """A file of weights cannot be used; the message has the reason and a remedy."""


def read_weights(path: str | Path, *, key: str | None = None) -> Weights:
    """Return the weights in a file, on the CPU.

    Args:
        key: key of the weights if the file has several sets: the place of one, or the prefix of its
            names. None takes the one that is not a moving average, if there is only one.

    Raises:
        CheckpointError: the file is missing, damaged, without weights, or not finite.
    """
    path = existing_file(path)
    if path.suffix == SAFE:
        content: Any = _decode_safetensors(path)
    elif path.suffix in PICKLED:
        content = _decode_pickle(path)
    else:
        known = ", ".join(sorted({SAFE, *PICKLED}))
        raise CheckpointError(f"{path} is not named as a file of weights; known: {known}")
    found = _sets_in(content, path)
    chosen = _default_set(found, path) if key is None else _named_set(found, key, path)
    state = _tensors_of(chosen, path)
    check_weights(state, path)
    notes = (*_choice_notes(chosen, found, key, path), *_aside_notes(chosen, content, path))
    return Weights(tensors=state, notes=notes)


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file with their names unchanged.

    Packed weights of few bits are returned as floats on their grids.
    """
    path = existing_file(path)
    state = _decode_safetensors(path)
    check_weights(state, path)
    try:
        return unpack_weights(state)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; restore the file") from error


def existing_file(path: str | Path) -> Path:
    """Return `path` if it is a non-empty file, else raise."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(item.name for item in path.iterdir() if item.suffix in {SAFE, *PICKLED})
        hint = f"; name the file, e.g. {path / inside[0]}" if inside else ""
        raise CheckpointError(f"{path} is a folder, not a file of weights{hint}")
    if not path.is_file():
        raise CheckpointError(f"no file {path}")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: 0 bytes; copy or download it again")
    return path


def check_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise unless every tensor is dense, on the CPU and finite."""
    if not state:
        raise CheckpointError(f"{path} holds no weights: it is an empty dictionary")
    broken = {name: _num_broken(name, tensor, path) for name, tensor in state.items()}
    broken = {name: count for name, count in broken.items() if count}
    if broken:
        name, count = next(iter(broken.items()))
        others = f" (and {len(broken) - 1} more tensors)" if len(broken) > 1 else ""
        raise CheckpointError(
            f"{path}: {count} of {state[name].numel()} values of '{name}'{others} are NaN or "
            "infinite; the training diverged or the file is damaged: take an earlier checkpoint"
        )


def first_line(error: BaseException) -> str:
    """Return an error's message as one short line."""
    text = str(error).strip()
    return textwrap.shorten(text.splitlines()[0], 200) if text else type(error).__name__


def _num_broken(name: str, tensor: Tensor, path: Path) -> int:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
        raise CheckpointError(f"{path}: '{name}' is {kind}, not a plain tensor; {_DENSE}")
    # A view that repeats few bytes a trillion times is a way to exhaust memory, not a weight.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() + _REPEATED:
        raise CheckpointError(_too_many(path, name, tensor.numel()))
    # A best loss of infinity beside the weights is none of them.
    if tensor.ndim == 0:
        return 0
    if not tensor.dtype.is_floating_point and not tensor.dtype.is_complex:
        return 0
    # The 8-bit floats have no isfinite of their own.
    values = tensor.float() if tensor.element_size() == 1 else tensor
    return int(values.numel() - torch.isfinite(values).sum().item())


def _decode_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except DAMAGE as error:
        raise CheckpointError(damage_message(path, first_line(error))) from error


def _decode_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP
    if zipped:
        _check_archive(path)
    try:
        return read_archive(path)
    except ForeignPickleError as error:
        raise CheckpointError(
            f"{path} is a pickle that torch did not write. To load it could run any code, so "
            f"nothing of it was loaded; {_RESAVE}"
        ) from error
    except DAMAGE as error:
        raise CheckpointError(damage_message(path, first_line(error))) from error


def _check_archive(path: Path) -> None:
    """Raise if a zip archive holds an exported program, which is used as a REF."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except DAMAGE as error:
        raise CheckpointError(damage_message(path, first_line(error))) from error
    if any(name.endswith("/archive_format") for name in names):
        raise CheckpointError(
            f"{path} is an exported program; give it the suffix {PROGRAM} and use it as a REF"
        )


def damage_message(path: Path, reason: str) -> str:
    """Return the message for an unreadable file."""
    return (
        f"{path} cannot be read: it is truncated, damaged or no file of weights ({reason}); "
        "copy or download it again"
    )


def _sets_in(content: Any, path: Path) -> list[WeightSet]:
    try:
        found = find_sets(content)
    except DAMAGE as error:
        raise CheckpointError(damage_message(path, first_line(error))) from error
    if not found:
        raise CheckpointError(_no_weights(content, path))
    return found


def _default_set(found: list[WeightSet], path: Path) -> WeightSet:
    known = [each for each in found if each.known]
    candidates = known or [each for each in found if each.average] or found
    if len(candidates) > 1:
        names = ", ".join(each.key or "the whole" for each in candidates)
        raise CheckpointError(
            f"{path} holds several sets of weights ({names}); say which: "
            f"--weights-key {candidates[0].key or candidates[1].key}"
        )
    return candidates[0]


def _named_set(found: list[WeightSet], key: str, path: Path) -> WeightSet:
    """Return the set at a place, or the part of one whose names begin with the key."""
    named = [each for each in found if each.key == key]
    named = named or [
        each for each in found if key in (each.key.split(".")[0], each.key.split(".")[-1])
    ]
    named = named or [part for each in found if (part := each.under(key)) is not None]
    if len(named) == 1:
        return named[0]
    options = [each.key for each in named or found if each.key]
    options += [] if named else list(dict.fromkeys(n for each in found for n in each.prefixes))
    if not options:
        raise CheckpointError(f"{path} holds one set of weights; leave --weights-key out")
    raise CheckpointError(
        f"{path} has {'several' if named else 'no'} weights under '{key}'; it has: "
        f"{', '.join(options[:_MOST_LISTED])}"
    )


def _choice_notes(
    chosen: WeightSet, found: list[WeightSet], key: str | None, path: Path
) -> tuple[str, ...]:
    others = [each.key for each in found if each is not chosen and each.key]
    if key is not None or not others:
        return ()
    return (
        f"{path} holds several sets of weights: {chosen.key or 'the outermost'} is taken; "
        f"--weights-key takes another: {', '.join(others[:_NAMED])}",
    )


def _no_weights(content: Any, path: Path) -> str:
    for name in objects_in(content):
        if name in _NOT_PLAIN:
            return f"{path} holds tensors that are {_NOT_PLAIN[name]}; {_DENSE}"
    if not isinstance(content, Mapping):
        kind = content.name if isinstance(content, Placeholder) else type(content).__name__
        kind = "Tensor" if isinstance(content, StoredTensor) else kind
        return f"{path} holds a {kind}, not weights; {_RESAVE}"
    if not content:
        return f"{path} holds no weights: it is an empty dictionary"
    keys = ", ".join(textwrap.shorten(str(key), 40) for key in list(content)[:8])
    return f"{path} holds no weights, only {keys}; {_RESAVE}"


def _tensors_of(chosen: WeightSet, path: Path) -> dict[str, Tensor]:
    for name, value in chosen.left.items():
        if isinstance(value, Placeholder) and value.name in _NOT_PLAIN:
            raise CheckpointError(
                f"{path}: '{name}' is {_NOT_PLAIN[value.name]}, not a plain tensor; {_DENSE}"
            )
    stored = {n: each for n, each in chosen.tensors.items() if isinstance(each, StoredTensor)}
    _check_sizes(stored, path)
    try:
        read = read_tensors(stored)
    except DAMAGE as error:
        raise CheckpointError(damage_message(path, first_line(error))) from error
    return {
        name: read[name] if isinstance(each, StoredTensor) else each
        for name, each in chosen.tensors.items()
    }


def _check_sizes(tensors: Mapping[str, StoredTensor], path: Path) -> None:
    """Raise before memory is taken for more than the file can hold."""
    room = _REPEATED
    for name, tensor in tensors.items():
        held = tensor.storage.num_values * tensor.storage.dtype.itemsize
        room -= max(0, tensor.num_bytes - held)
        if room < 0:
            count = math.prod(tensor.shape)
            raise CheckpointError(_too_many(path, name, count))


def _too_many(path: Path, name: str, count: int) -> str:
    return (
        f"{path}: '{name}' claims {count} values, which the file does not hold; "
        "it is damaged, or save tensor.contiguous()"
    )


def _aside_notes(chosen: WeightSet, content: Any, path: Path) -> tuple[str, ...]:
    """Return what was set aside, in one sentence, if anything was."""
    left = [name for name, value in chosen.left.items() if not isinstance(value, Mapping)]
    aside = [*objects_in(content), *left]
    if not aside:
        return ()
    more = f" and {len(aside) - _NAMED} more" if len(aside) > _NAMED else ""
    return (f"{path}: set aside, and not run: {', '.join(aside[:_NAMED])}{more}",)
