"""A pickle read as data: plain values come back, every other object as a placeholder; nothing runs.

A pickle is a program for a stack machine that may import and call anything. Here its instructions
are only looked at: numbers, text, lists, tuples and dictionaries are built, and a call of a name
that the caller knows is answered by the caller's own function. Every other call, class or state
becomes an inert `Placeholder`. No module is imported and no attribute of one is looked up.

Sizes stay in proportion to the file: no instruction allocates more than it has bytes, but for a
small constant, and their number is limited.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, cast, runtime_checkable

# A checkpoint of 1 000 layers with its optimizer has 10^5 instructions, a loss curve of a million
# values 10^6; at 200 bytes each these are 1 GB.
MOST_INSTRUCTIONS = 5_000_000
_SCALARS = (str, bytes, int, float, bool, type(None))
# Longer numbers are slow to print, and no checkpoint counts so far.
_LONGEST_INT_BITS = 4096

# Instructions whose argument is the value itself, as pickletools decodes it.
_VALUES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    # Sets hash what they hold, which a hostile file could make slow; as a list nothing is hashed.
    "EMPTY_SET": list,
}
_IGNORED = frozenset({"PROTO", "FRAME", "READONLY_BUFFER"})
# How protocols 0 and 1 make an object: the class is the first argument.
_MAKERS = frozenset({"copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__"})
_COLLECTIONS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): {_as_key(key): value for key, value in pairs},
    "collections.defaultdict": lambda _=None, items=(): dict(items),
    "collections.Counter": lambda items=(): dict(items),
    # Up to protocol 2 the builtins are called as in Python 2.
    "__builtin__.bytes": lambda *args: Placeholder("bytes", args) if args else b"",
    "__builtin__.set": lambda items=(): list(items),
    "builtins.set": lambda items=(): list(items),
    "torch.Size": lambda sizes=(): tuple(sizes),
    "_codecs.encode": lambda text, encoding="latin1": _encoded(text, encoding),
}

Known = Mapping[str, Callable[..., Any]]


@runtime_checkable
class ByteStream(Protocol):
    """What is read from: a file, or a mapping of one."""

    def read(self, count: int, /) -> bytes: ...

    def readline(self) -> bytes: ...

    def tell(self) -> int: ...

    def seek(self, place: int, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Name:
    """A class or function that the pickle names; it is not looked up."""

    text: str


@dataclass(eq=False)
class Placeholder:
    """What stands for an object of a class that is not rebuilt.

    Args:
        name: of its class or of the function that would have made it.
        args: what it would have been called with.
        state: what it would have been told afterwards.
        items: what it would have been filled with.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


def read_pickle(file: ByteStream, known: Known, persistent: Callable[[Any], Any]) -> Any:
    """Return what a pickle holds; the file stands behind its last instruction afterwards.

    Args:
        known: functions by the names that pickles call them; they get the arguments in the file.
        persistent: returns what a persistent id stands for.

    Raises:
        pickle.UnpicklingError: it is no pickle, or too long.
        ValueError, LookupError, TypeError, AttributeError: its instructions make no sense.
    """
    return _Machine({**_COLLECTIONS, **known}, persistent).run(file)


class _Machine:
    def __init__(self, known: Known, persistent: Callable[[Any], Any]) -> None:
        self.known, self.persistent = known, persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: ByteStream) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
            if count == MOST_INSTRUCTIONS:
                raise pickle.UnpicklingError(f"over {MOST_INSTRUCTIONS} instructions")
            name = opcode.name
            if name in _VALUES:
                self.stack.append(_bounded(argument))
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name == "STOP":
                return self.stack.pop()
            elif name not in _IGNORED:
                step = getattr(self, "_" + name.lower(), None)
                if step is None:
                    raise pickle.UnpicklingError(f"instruction {name}")
                step(argument)
        raise pickle.UnpicklingError("no end")

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _mark(self, _: None) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _pop_mark(self, _: None) -> None:
        self._since_mark()

    def _pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _list(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(items)

    def _tuple(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    _frozenset = _tuple

    def _tuple1(self, _: None) -> None:
        self._tuple_of(1)

    def _tuple2(self, _: None) -> None:
        self._tuple_of(2)

    def _tuple3(self, _: None) -> None:
        self._tuple_of(3)

    def _tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise pickle.UnpicklingError("a tuple of nothing")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _dict(self, _: None) -> None:
        pairs = self._since_mark()
        self.stack.append({})
        self._fill(pairs)

    def _setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _setitems(self, _: None) -> None:
        self._fill(self._since_mark())

    def _fill(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Placeholder) else target
        if not isinstance(items, dict):
            raise pickle.UnpicklingError(f"entries for a {type(target).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            items[_as_key(key)] = value

    def _append(self, _: None) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise pickle.UnpicklingError(f"items for a {type(target).__name__}")

    def _get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    _binget = _long_binget = _get

    def _put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _global(self, text: str) -> None:
        self.stack.append(Name(text.replace(" ", ".", 1)))

    def _stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Name(f"{_text(module)}.{_text(name)}"))

    def _ext1(self, code: int) -> None:
        self.stack.append(Name(f"copyreg.extension {code}"))

    _ext2 = _ext4 = _ext1

    def _next_buffer(self, _: None) -> None:
        self.stack.append(Placeholder("buffer"))

    def _persid(self, text: str) -> None:
        self.stack.append(self.persistent(text))

    def _binpersid(self, _: None) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def _reduce(self, _: None) -> None:
        args, called = self.stack.pop(), self.stack.pop()
        self._call(called, args)

    _newobj = _reduce

    def _newobj_ex(self, _: None) -> None:
        _, args, called = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self._call(called, args)

    def _inst(self, text: str) -> None:
        args = tuple(self._since_mark())
        self._call(Name(text.replace(" ", ".", 1)), args)

    def _obj(self, _: None) -> None:
        called, *args = self._since_mark()
        self._call(called, tuple(args))

    def _call(self, called: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise pickle.UnpicklingError("a call without arguments")
        name = called.text if isinstance(called, Name) else type(called).__name__
        if name in _MAKERS and args and isinstance(args[0], Name):
            name, args = args[0].text, ()
        make = self.known.get(name) if isinstance(called, Name) else None
        self.stack.append(Placeholder(name, args) if make is None else make(*args))

    def _build(self, _: None) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        # What a dictionary or tensor carries beside its values (`_metadata`) is not needed.
        if isinstance(target, Placeholder):
            target.state = state


def _as_key(key: Any) -> Any:
    """Return a key that is cheap to hash: nested tuples take exponential time."""
    if isinstance(key, _SCALARS):
        return key
    if isinstance(key, tuple) and len(key) <= 4 and all(isinstance(item, _SCALARS) for item in key):
        return key
    return key if isinstance(key, (Name, Placeholder)) else Placeholder(type(key).__name__)


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _LONGEST_INT_BITS:
        return Placeholder("int")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise pickle.UnpicklingError(f"a name that is a {type(value).__name__}")
    return value


def _encoded(text: Any, encoding: Any) -> bytes:
    """Return bytes as protocol 2 stores them: text, a character for each byte."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin1")
