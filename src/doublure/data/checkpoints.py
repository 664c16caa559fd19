"""From a file of weights to tensors by name, without ever running what the file says.

Pickles are read with `weights_only=True`; whatever needs more is refused with the way out. What a
checkpoint wraps around its weights (epoch, optimizer, EMA, `module.`) is taken off.
"""

import pickle
import re
import struct
import textwrap
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

PICKLED = frozenset({".pt", ".pth", ".th", ".bin", ".ckpt", ".tar"})
SAFE = ".safetensors"
PROGRAM = ".pt2"

# What wrappers put before every key: DataParallel, torch.compile, Lightning and this library.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "body.")
# Names under which training scripts keep the weights, and their exponential moving average.
_PLAIN = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params"),
    *("module", "model_state", "net_state_dict", "teacher", "student"),
)
_MOVING_AVERAGE = (
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "model_ema_state_dict"),
    *("params_ema", "net_ema", "shadow"),
)
# A recursive pickle could nest for ever; no real checkpoint wraps its weights this often.
_DEEPEST = 4
# AveragedModel of torch.optim counts its updates beside the weights it wraps.
_UPDATE_COUNT = "n_averaged"
_ZIP = b"PK\x03\x04"

# What torch's and safetensors' readers raise on damaged or hostile bytes; there is no common class.
DAMAGE = (
    *(pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, struct.error, EOFError, OSError),
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(AssertionError, MemoryError, SyntaxError),
)
_RESAVE = (
    "re-save only the weights where it was made: torch.save(model.state_dict(), 'weights.pth'), "
    "or safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
)


class CheckpointError(ValueError):
    """A file of weights cannot be used; the message says why and the way out."""


def read_weights(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Return the weights in a file by their names in the architecture, on the CPU.

    Args:
        ema: take the moving average where the file holds both; it is taken anyway where the file
            holds nothing else.

    Raises:
        CheckpointError: the file is missing, damaged, not only weights, or not finite.
    """
    path = existing_file(path)
    if path.suffix == SAFE:
        content: Any = _decode_safetensors(path)
    elif path.suffix in PICKLED:
        content = _decode_pickle(path)
    else:
        known = ", ".join(sorted({SAFE, *PICKLED}))
        raise CheckpointError(f"{path} is not named as a file of weights; known: {known}")
    state = _without_prefixes(_find_weights(content, path, ema=ema))
    check_weights(state, path)
    return {name: tensor.detach() for name, tensor in state.items()}


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file under exactly the names it gives them."""
    path = existing_file(path)
    state = _decode_safetensors(path)
    check_weights(state, path)
    return state


def existing_file(path: str | Path) -> Path:
    """Return `path` if it is a file with something in it, else raise."""
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
    """Return what an error says, in one line of bearable length."""
    text = str(error).strip()
    return textwrap.shorten(text.splitlines()[0], 200) if text else type(error).__name__


def _num_broken(name: str, tensor: Tensor, path: Path) -> int:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
        raise CheckpointError(
            f"{path}: '{name}' is {kind}, not a plain tensor; save the dense float weights"
        )
    # A view that repeats few bytes a trillion times is a way to exhaust memory, not a weight.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: '{name}' claims {tensor.numel()} values, which the file does not hold; "
            "it is damaged, or save tensor.contiguous()"
        )
    if not tensor.dtype.is_floating_point and not tensor.dtype.is_complex:
        return 0
    # The 8-bit floats have no isfinite of their own.
    values = tensor.float() if tensor.element_size() == 1 else tensor
    return int(values.numel() - torch.isfinite(values).sum().item())


def _decode_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except DAMAGE as error:
        raise CheckpointError(damaged(path, first_line(error))) from error


def _decode_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(len(_ZIP)) == _ZIP
    if zipped:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            # About pickle protocols nobody can do anything about; the outcome is checked instead.
            warnings.simplefilter("ignore")
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed is None:
            # torch's own words recommend weights_only=False, which is no way out.
            raise CheckpointError(damaged(path, "its pickle is broken")) from error
        raise CheckpointError(
            f"{path} is a pickle that needs more than weights: it asks for '{needed[1]}', which "
            f"could run any code, so nothing of it was loaded; {_RESAVE}"
        ) from error
    except DAMAGE as error:
        raise CheckpointError(damaged(path, first_line(error))) from error


def _check_archive(path: Path) -> None:
    """Raise if a zip archive holds a program, not just weights, or cannot be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            packed = [item for item in archive.infolist() if item.compress_type]
    except DAMAGE as error:
        raise CheckpointError(damaged(path, first_line(error))) from error
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript archive: a program, not a file of weights; take them out: "
            f"torch.save(torch.jit.load('{path}').state_dict(), 'weights.pth')"
        )
    if any(name.endswith("/archive_format") for name in names):
        raise CheckpointError(
            f"{path} is an exported program; give it the suffix {PROGRAM} and use it as a REF"
        )
    if packed:
        # Mapped into memory, the packed bytes would pass for numbers.
        raise CheckpointError(
            f"{path} was compressed after it was saved ('{packed[0].filename}'); "
            "save it again with torch.save, which stores plainly"
        )


def damaged(path: Path, reason: str) -> str:
    """Return the message for a file whose bytes make no sense."""
    return (
        f"{path} cannot be read: it is truncated, damaged or no file of weights ({reason}); "
        "copy or download it again"
    )


def _find_weights(content: Any, path: Path, *, ema: bool, depth: int = 0) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not weights; {_RESAVE}")
    if not content:
        raise CheckpointError(f"{path} holds no weights: it is an empty dictionary")
    if any(isinstance(value, Tensor) for value in content.values()):
        return _plain_weights(content, path)
    name = _wrapper(content, path, ema=ema and depth == 0)
    if name is None or depth == _DEEPEST:
        keys = ", ".join(str(key) for key in list(content)[:8])
        raise CheckpointError(f"{path} holds no weights under a known name, only {keys}; {_RESAVE}")
    return _find_weights(content[name], path, ema=False, depth=depth + 1)


def _wrapper(content: Mapping[Any, Any], path: Path, *, ema: bool) -> str | None:
    """Return the key under which the weights are."""
    averages = [name for name in _MOVING_AVERAGE if _holds_weights(content.get(name))]
    plain = [name for name in _PLAIN if _holds_weights(content.get(name))]
    if ema and not averages:
        raise CheckpointError(f"{path} holds no moving average (EMA) of the weights; leave ema out")
    found = averages if ema or not plain else plain
    if not found:
        # A name nobody knows is good enough where nothing else could be meant.
        found = [key for key, value in content.items() if _is_plain(value)]
        if len(found) > 1:
            raise CheckpointError(_several(path, found))
    if len(found) > 1:
        raise CheckpointError(_several(path, found))
    return found[0] if found else None


def _several(path: Path, names: list[str]) -> str:
    return f"{path} holds several networks ({', '.join(names)}); save the one you mean on its own"


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(item, Tensor) for item in value.values())
    )


def _holds_weights(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, Mapping) or depth == _DEEPEST:
        return False
    return any(isinstance(item, Tensor) for item in value.values()) or any(
        _holds_weights(item, depth + 1) for item in value.values()
    )


def _plain_weights(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor under a name; "
                f"{_RESAVE}"
            )
    return dict(content)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    counted = {name: tensor for name, tensor in state.items() if name != _UPDATE_COUNT}
    while True:
        for prefix in PREFIXES:
            if counted and all(name.startswith(prefix) for name in counted):
                counted = {name.removeprefix(prefix): value for name, value in counted.items()}
                state = counted
                break
        else:
            return state
