"""The files that torch.save writes, read as data: what they hold, and each tensor on demand.

Since 1.6 a file is a zip archive: `data.pkl` says what there is, `data/KEY` are the numbers of a
storage. Before, it was a row of pickles with the numbers behind them. The pickle is read by
`pickle_contents`, which runs nothing. Tensors come as `StoredTensor`, a description; numbers are
read, and their checksum is compared, only for those that are asked for.
"""

import io
import math
import mmap
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from doublure.data.pickle_contents import ByteStream, Known, Name, Placeholder, read_pickle

ZIP = b"PK\x03\x04"
# What the old layout begins with: a number, the version of the format, and facts on the machine.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
}
# Number formats that have no storage class of their own go by their name.
_NAMED = {
    str(dtype): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and not str(dtype).startswith("torch.q")
}
# Packing after the fact makes weights a little smaller; zeros of a pruned network shrink more.
_MOST_EXPANSION = 100
# A local header of a zip archive, up to the lengths of the two texts that follow it.
_LOCAL_HEADER = struct.Struct("<26xHH")


class ForeignPickleError(pickle.UnpicklingError):
    """A pickle, but no archive of torch."""


class DamagedError(ValueError):
    """The bytes contradict each other; the message says which part."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Storage:
    """A row of numbers in the file.

    Args:
        read: returns their bytes, checked.
    """

    key: str
    dtype: torch.dtype
    num_values: int
    read: Callable[["Storage"], bytearray]


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredTensor:
    """A tensor as the file describes it; its numbers are read by `read_tensors`."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """The bytes that its values take when each is stored once."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_archive(path: Path) -> Any:
    """Return what a file of torch.save holds: plain values, StoredTensor and Placeholder.

    Raises:
        DamagedError: parts of it do not belong together.
        pickle.UnpicklingError, zipfile.BadZipFile, ValueError, LookupError, ...: it is no such
            file.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) == ZIP:
            return _Zip(path).read()
    return _Legacy(path).read()


def read_tensors(tensors: dict[str, StoredTensor]) -> dict[str, Tensor]:
    """Return the tensors; those that share a storage in the file share it here.

    Raises:
        DamagedError: a checksum does not fit the numbers.
    """
    storages: dict[str, Tensor] = {}
    for tensor in tensors.values():
        storage = tensor.storage
        if storage.key not in storages:
            values = storage.read(storage)
            storages[storage.key] = (
                torch.frombuffer(values, dtype=torch.uint8) if values else torch.empty(0).byte()
            )
    return {name: _view(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _view(tensor: StoredTensor, values: Tensor) -> Tensor:
    if tensor.num_bytes == 0:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    whole = values[: values.numel() // tensor.dtype.itemsize * tensor.dtype.itemsize]
    return whole.view(tensor.dtype).as_strided(tensor.shape, tensor.stride, tensor.offset)


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, dtype: torch.dtype | None = None
) -> StoredTensor:
    """Return a tensor, which lies within its storage."""
    numbers = [offset, *shape, *stride]
    if (
        not isinstance(storage, Storage)
        or len(shape) != len(stride)
        or any(not isinstance(number, int) or number < 0 for number in numbers)
    ):
        raise DamagedError("a tensor without a place")
    dtype = dtype or storage.dtype
    end = offset + 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    held = storage.num_values * storage.dtype.itemsize // dtype.itemsize
    if math.prod(shape) and end > held:
        raise DamagedError(f"a tensor of shape {tuple(shape)} in a storage of {held} values")
    return StoredTensor(
        storage=storage, dtype=dtype, offset=offset, shape=tuple(shape), stride=tuple(stride)
    )


def _typed_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> StoredTensor:
    return _tensor(storage, offset, shape, stride, _NAMED[dtype.text])


def _subclass(make: Any, _class: Any, args: Any, _state: Any) -> Any:
    """Return the tensor inside of a tensor of another class or with attributes."""
    return _TENSORS[make.text](*args)


_TENSORS: Known = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, stride, *_: _tensor(
        storage, offset, shape, stride
    ),
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda data, *_: data,
    "torch.nn.parameter.Parameter": lambda data=None, *_: data,
    "torch.nn.parameter.Buffer": lambda data=None, *_: data,
    "torch._tensor._rebuild_from_type_v2": _subclass,
}


def _storage_parts(pid: Any) -> tuple[torch.dtype, str, int, Any]:
    """Return number format, key, count and view of a persistent id."""
    word, kind, key, _place, count, *rest = pid
    if word != "storage" or not isinstance(kind, Name) or not isinstance(count, int) or count < 0:
        raise DamagedError("a reference to something that is no storage")
    return {**_NAMED, **_DTYPES}[kind.text], str(key), count, rest[0] if rest else None


class _Zip:
    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self.members = {item.filename: item for item in archive.infolist()}
        size, whole = path.stat().st_size, sum(item.file_size for item in self.members.values())
        packed = any(item.compress_type for item in self.members.values())
        if whole > size * (_MOST_EXPANSION if packed else 1):
            raise DamagedError(f"its members claim {whole} bytes in a file of {size}")
        roots = [name for name in self.members if PurePosixPath(name).name == "data.pkl"]
        if not roots:
            raise DamagedError("a zip archive without data.pkl")
        self.root = str(PurePosixPath(min(roots, key=len)).parent)

    def read(self) -> Any:
        return read_pickle(io.BytesIO(self._member("data.pkl")), _TENSORS, self._storage)

    def _storage(self, pid: Any) -> Storage:
        dtype, key, count, _ = _storage_parts(pid)
        member = self._find(f"data/{key}")
        if count * dtype.itemsize > member.file_size:
            raise DamagedError(
                f"'{member.filename}' has {member.file_size} bytes, for {count} values"
            )
        return Storage(key=key, dtype=dtype, num_values=count, read=self._values)

    def _values(self, storage: Storage) -> bytearray:
        values = self._member(f"data/{storage.key}")
        order = f"{self.root}/byteorder"
        if order in self.members and bytes(self._member("byteorder")) == b"big":
            return _swapped(values, storage.dtype)
        return values

    def _find(self, name: str) -> zipfile.ZipInfo:
        full = name if self.root == "." else f"{self.root}/{name}"
        if full not in self.members:
            raise DamagedError(f"'{full}' is missing in it")
        return self.members[full]

    def _member(self, name: str) -> bytearray:
        """Return the bytes of a member; torch writes a checksum of 0 where it computed none."""
        item = self._find(name)
        if item.compress_type:
            with zipfile.ZipFile(self.path) as archive:
                return bytearray(archive.read(item))
        with self.path.open("rb") as file:
            file.seek(item.header_offset)
            header = file.read(_LOCAL_HEADER.size)
            file.seek(sum(_LOCAL_HEADER.unpack(header)), io.SEEK_CUR)
            values = bytearray(item.file_size)
            if file.readinto(values) != item.file_size:
                raise DamagedError(f"'{item.filename}' ends early")
        if item.CRC and zlib.crc32(values) != item.CRC:
            raise DamagedError(f"the bytes of '{item.filename}' do not fit their checksum (CRC-32)")
        return values


class _Legacy:
    def __init__(self, path: Path) -> None:
        self.path = path
        # Where the numbers of each storage begin; known only when the pickles were read.
        self.starts: dict[str, int] = {}
        self.little_endian = True
        self.roots: dict[str, Storage] = {}

    def read(self) -> Any:
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            return self._content(view)

    def _content(self, file: ByteStream) -> Any:
        if read_pickle(file, {}, _nothing) != _MAGIC:
            raise ForeignPickleError("a pickle that torch did not write")
        if read_pickle(file, {}, _nothing) != _VERSION:
            raise pickle.UnpicklingError("an unknown version of torch's format")
        machine = read_pickle(file, {}, _nothing)
        self.little_endian = bool(machine.get("little_endian", True))
        content = read_pickle(file, _TENSORS, self._storage)
        keys = read_pickle(file, {}, _nothing)
        self._place(file, [str(key) for key in keys])
        return content

    def _place(self, file: ByteStream, keys: list[str]) -> None:
        end = self.path.stat().st_size
        for key in keys:
            if key not in self.roots:
                raise DamagedError(f"storage {key} is not described")
            counted = file.read(8)
            start = file.tell()
            storage = self.roots[key]
            (count,) = struct.unpack("<q" if self.little_endian else ">q", counted)
            stop = start + count * storage.dtype.itemsize
            if count < storage.num_values or stop > end:
                raise DamagedError(f"storage {key} ends early")
            self.starts[key] = start
            file.seek(stop)

    def _storage(self, pid: Any) -> Any:
        if pid[0] == "module":  # a pickled network's class, with its source text
            return pid[1]
        dtype, key, count, view = _storage_parts(pid)
        root = self.roots.setdefault(
            key, Storage(key=key, dtype=dtype, num_values=count, read=self._values)
        )
        if view is None:
            return root
        name, offset, length = view
        if not 0 <= offset <= offset + length <= root.num_values:
            raise DamagedError(f"a part of storage {key} that is not in it")
        if offset == 0:
            return root

        def part(storage: Storage) -> bytearray:
            del storage
            return self._values(root)[offset * dtype.itemsize :]

        return Storage(key=f"{key}/{name}", dtype=dtype, num_values=length, read=part)

    def _values(self, storage: Storage) -> bytearray:
        if storage.key not in self.starts:
            raise DamagedError(f"the numbers of storage {storage.key} are missing")
        values = bytearray(storage.num_values * storage.dtype.itemsize)
        with self.path.open("rb") as file:
            file.seek(self.starts[storage.key])
            file.readinto(values)
        return values if self.little_endian else _swapped(values, storage.dtype)


def _nothing(pid: Any) -> Placeholder:
    del pid
    return Placeholder("persistent id")


def _swapped(values: bytearray, dtype: torch.dtype) -> bytearray:
    """Return the numbers of a big-endian machine as this one stores them."""
    width = dtype.itemsize // (2 if dtype.is_complex else 1)
    return bytearray(torch.frombuffer(values, dtype=torch.uint8).view(-1, width).flip(1).numpy())
