"""A pickle is read as data: whatever it says, nothing runs, and memory stays in proportion."""

import argparse
import collections
import contextlib
import io
import os
import pickle
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doublure.data import pickle_contents
from doublure.data.checkpoints import DAMAGE
from doublure.data.pickle_contents import MOST_INSTRUCTIONS, Name, Placeholder, read_pickle


def no_storage(pid: Any) -> Any:
    return Placeholder("storage")


def contents(pickled: bytes) -> Any:
    return read_pickle(io.BytesIO(pickled), {}, no_storage)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back_in_every_protocol(value, protocol):
    assert contents(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_dictionaries_of_the_library_become_plain_ones(protocol):
    value = {
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "set": {1},
    }
    plain = {"ordered": {"a": 1}, "default": {"a": [1]}, "counter": {"a": 2, "b": 1}, "set": [1]}
    assert contents(pickle.dumps(value, protocol)) == plain


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_object_becomes_a_placeholder_that_knows_its_class_and_state(protocol):
    read = contents(pickle.dumps(argparse.Namespace(lr=0.1), protocol))
    assert isinstance(read, Placeholder)
    assert (read.name, read.state) == ("argparse.Namespace", {"lr": 0.1})


def test_a_class_is_a_name_and_is_not_imported():
    assert "this" not in sys.modules
    read = contents(b"cthis\nZen\n.")
    assert isinstance(read, Name)
    assert read.text == "this.Zen"
    assert "this" not in sys.modules


class Reduced:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


class Told:
    """Unpickled by trusting code, its `__setstate__` would make a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["path"]).mkdir()


def global_of(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stack_global_of(module: str, name: str) -> bytes:
    parts = (text.encode() for text in (module, name))
    return b"".join(b"\x8c" + bytes([len(part)]) + part for part in parts) + b"\x93"


def text_of(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def hostile(path: str) -> dict[str, bytes]:
    """Return pickles each of which makes the folder `path` if anything in it runs."""
    code = f"__import__('os').mkdir({path!r})"
    call = b"(" + text_of(path) + b"tR."
    run = b"(" + text_of(code) + b"tR."
    nested = pickle.dumps(Reduced(os.mkdir, (path,)), 2)
    return {
        "reduce": pickle.dumps(Reduced(os.mkdir, (path,)), 2),
        "reduce, protocol 0": pickle.dumps(Reduced(os.mkdir, (path,)), 0),
        "reduce, protocol 4": pickle.dumps(Reduced(os.mkdir, (path,)), 4),
        "setstate": pickle.dumps(Told(path), 2),
        "setstate, protocol 4": pickle.dumps([Told(path)] * 2, 4),
        "deep inside": pickle.dumps({"a": [({"b": Reduced(os.mkdir, (path,))},)]}, 4),
        "as a key": b"}" + pickle.dumps(Reduced(os.mkdir, (path,)), 2)[2:-1] + b"K\x01s.",
        "state of a dictionary": pickle.dumps(Reduced(dict, (), {"a": Told(path)}), 2),
        "eval": global_of("builtins", "eval") + run,
        "exec under its old name": global_of("__builtin__", "exec") + run,
        "a name by instructions": stack_global_of("os", "mkdir") + call,
        "a name with points": stack_global_of("os", "path.os.mkdir") + call,
        "a name with points in old code": global_of("os", "path.os.mkdir") + call,
        "through torch": global_of("torch.serialization", "os.mkdir") + call,
        "through a known function": global_of("collections", "OrderedDict.fromkeys") + call,
        "a class that is called": b"(" + global_of("os", "mkdir") + text_of(path) + b"o.",
        "an instance": b"(" + text_of(path) + b"ios\nmkdir\n.",
        "a new object": global_of("os", "mkdir") + b"(" + text_of(path) + b"t\x81.",
        "a new object with names": global_of("os", "mkdir") + b"(" + text_of(path) + b"t}\x92.",
        "a registered extension": b"\x82\x01" + call,
        "getattr": global_of("builtins", "getattr")
        + b"(" + global_of("os", "path") + text_of("mkdir") + b"tR" + call,
        "a pickle in a pickle": global_of("pickle", "loads")
        + b"(" + b"C" + bytes([len(nested)]) + nested + b"tR.",
        "runpy": global_of("runpy", "_run_code") + b"(" + text_of(code) + b"}tR.",
        "a partial": pickle.dumps(__import__("functools").partial(os.mkdir, path), 2)[:-1] + b")R.",
        "torch.load": global_of("torch", "load") + call,
        "a rebuild with a hook": global_of("torch._tensor", "_rebuild_from_type_v2")
        + b"(" + global_of("os", "mkdir") + global_of("torch", "Tensor")
        + b"(" + text_of(path) + b"t}tR.",
        "a persistent id": text_of(path) + b"Q.",
        "a persistent name": b"P" + path.encode() + b"\n.",
        "numpy": global_of("numpy.core.multiarray", "_reconstruct") + call,
        "dill": global_of("dill._dill", "_create_function") + run,
    }  # fmt: skip


@pytest.mark.parametrize("kind", hostile("x"))
def test_nothing_in_a_hostile_pickle_runs(tmp_path, kind):
    trap = tmp_path / "trap"
    events: list[str] = []
    sys.addaudithook(lambda event, _: events.append(event) if watching else None)
    watching = True
    contents(hostile(str(trap))[kind])
    watching = False
    assert not trap.exists()
    # What Python itself reports of anything that is imported, found, compiled, run or opened.
    forbidden = {"import", "exec", "compile", "open", "os.mkdir", "os.system", "pickle.find_class"}
    assert not forbidden & set(events)


def test_what_would_have_run_is_named():
    read = contents(pickle.dumps(Reduced(os.system, ("rm -rf /",)), 2))
    assert read.name.endswith(".system")
    assert read.args == ("rm -rf /",)


BOMBS = {
    "a long text": b"X" + struct.pack("<I", 2**32 - 1) + b"a.",
    "long bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"a.",
    "a long number": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "a high place of the memory": b"Nr" + struct.pack("<I", 2**32 - 1) + b".",
    "a bytearray by its length": b"c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.",
    "a list that is multiplied": b"coperator\nmul\n(](K\x01eJ\xff\xff\xff\x7ftR.",
    "a billion laughs": b"]q\x00" + b"".join(
        b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)
    ) + b".",
    "tuples of tuples as a key": b"}N" + b"2\x86" * 80 + b"K\x01s.",
    "a recursive list": b"]q\x00h\x00a.",
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_no_small_pickle_takes_much_memory_or_time(kind):
    tracemalloc.start()
    with contextlib.suppress(DAMAGE):
        contents(BOMBS[kind])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_the_number_of_instructions_is_bounded(monkeypatch):
    monkeypatch.setattr(pickle_contents, "MOST_INSTRUCTIONS", 100)
    assert contents(b"].") == []
    with pytest.raises(pickle.UnpicklingError, match="over 100 instructions"):
        contents(b"(" + b"]" * 200)


@pytest.mark.parametrize("instruction", [b"]", b"}", b"\x8f", b"(", b"N", b"K\x01", b")"])
def test_an_instruction_takes_at_most_200_bytes(instruction):
    pickled, count = instruction * 50_000, 50_000
    tracemalloc.start()
    with pytest.raises(DAMAGE):
        contents(pickled)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * count
    assert 200 * MOST_INSTRUCTIONS <= 1e9


@settings(max_examples=400)
@given(data=st.binary(max_size=40))
def test_random_bytes_are_refused_with_a_known_error(data):
    with contextlib.suppress(DAMAGE):
        contents(data + b".")


def test_an_odd_name_is_only_text():
    read = contents(stack_global_of("", "a\nb") + b")R.")
    assert read.name == ".a\nb"
