"""Readouts: the answer of a linear map, read in a network behind what follows it.

Behind a sum and an activation an answer z is seen as s z + shortcut, and of a ReLU only what is
positive. A shift that is added to z meanwhile makes all of it positive, and is taken off again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from doublure.nets.linear_maps import LinearMap

# Indices along all dimensions of an answer but that of its channels.
Places = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Readout:
    """Where the answer of a linear map is read.

    Args:
        module: whose answer is read.
        channels: of that answer, one for each channel of the map.
        scale: by which each is multiplied on the way.
        shift: what is added to the map's answer while it is read.
        rectified: whether nothing below zero has an effect, as before a ReLU.
    """

    map: LinearMap
    module: str
    channels: Tensor
    scale: Tensor
    shift: float = 0.0
    rectified: bool = False

    @property
    def shifts(self) -> dict[str, Tensor]:
        """What to add to which module's answer while it is read."""
        return {self.map.last: torch.tensor(self.shift)} if self.shift else {}

    def rows(self, answer: Tensor, places: Places) -> Tensor:
        """Return rows x channels of the map's answer, of that of `module` under the shift."""
        scale = self.scale.to(answer.device)
        read = rows_at(answer, places)[:, self.channels.to(answer.device)]
        return read / scale - self.shift


def rows_at(answer: Tensor, places: Places) -> Tensor:
    """Return rows x channels of a map, of tokens or of a vector at these places."""
    if answer.dim() == 4:
        batch, y, x = places
        return answer[batch, :, y, x]
    return answer[places]


def read_rows(
    network: nn.Module,
    inputs: Any,
    readouts: Sequence[Readout],
    choose: Callable[[int, tuple[int, ...]], Places],
) -> list[tuple[Tensor, Places]]:
    """Return, by readout, rows of its map's answer and the places they are from.

    Args:
        choose: places of an answer, from the number of the readout and the answer's shape.
    """
    found: dict[int, tuple[Tensor, Places]] = {}

    def reading(i: int, readout: Readout) -> Callable[..., None]:
        def read(module: nn.Module, args: Any, kwargs: Any, answer: Tensor) -> None:
            if readout.shift:
                # Beside the call that goes on, which must not see the shift.
                with shifted(network, readout.shifts):
                    answer = module.forward(*args, **kwargs)
            places = choose(i, tuple(answer.shape))
            found[i] = readout.rows(answer, places), places

        return read

    handles = [
        network.get_submodule(readout.module).register_forward_hook(
            reading(i, readout), with_kwargs=True
        )
        for i, readout in enumerate(readouts)
    ]
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [found[i] for i in range(len(readouts))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """What a module was called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def bytes(self) -> int:
        """How much memory its tensors take."""
        held = (*self.args, *self.kwargs.values())
        return sum(x.numel() * x.element_size() for x in held if isinstance(x, Tensor))


def calls_of(network: nn.Module, inputs: Any, name: str) -> list[Call]:
    """Return what a module is called with, each time."""
    calls: list[Call] = []
    handle = network.get_submodule(name).register_forward_pre_hook(
        lambda _module, args, kwargs: calls.append(Call(args=args, kwargs=kwargs)),
        with_kwargs=True,
    )
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        handle.remove()
    return calls


def runner(network: nn.Module, inputs: Any, name: str) -> Callable[[], Any]:
    """Return a call of a module, or of the whole for an empty name, on what it is shown."""
    if not name:
        return torch.no_grad()(lambda: network(inputs))
    module, call = network.get_submodule(name), calls_of(network, inputs, name)[-1]
    return torch.no_grad()(lambda: module(*call.args, **call.kwargs))


class _Reached(Exception):  # noqa: N818  # no error: the rest of a network need not be called
    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer


def read_map(network: nn.Module, run: Callable[[], Any], readout: Readout) -> tuple[Tensor, Tensor]:
    """Return what the layer of a readout is given, and the answer that its rows are read from.

    Args:
        run: calls the network, or a part of it that the readout is in.
    """
    given: list[Tensor] = []
    layer = network.get_submodule(readout.map.layer)
    handle = layer.register_forward_pre_hook(lambda _m, seen: given.append(seen[0]))
    try:
        with shifted(network, readout.shifts):
            answer = _reach(network, run, readout.module)
    finally:
        handle.remove()
    return given[0], answer


def answer_of(network: nn.Module, inputs: Any, module: str) -> Tensor:
    """Return what a module of the network answers."""
    return _reach(network, partial(network, inputs), module)


def _reach(network: nn.Module, run: Callable[[], Any], module: str) -> Tensor:
    """Return what a module answers in a call that goes no further."""

    def stop(_module: nn.Module, _given: Any, answer: Tensor) -> None:
        raise _Reached(answer)

    handle = network.get_submodule(module).register_forward_hook(stop)
    try:
        with torch.no_grad():
            run()
    except _Reached as reached:
        return reached.answer
    finally:
        handle.remove()
    raise AssertionError(f"'{module}' was not called")


@contextmanager
def shifted(network: nn.Module, shifts: dict[str, Tensor]) -> Iterator[None]:
    """Add to the answers of modules, channel by channel, while the context lasts."""

    def adding(shift: Tensor) -> Callable[..., Tensor]:
        def add(_module: nn.Module, _given: Any, answer: Tensor) -> Tensor:
            moved = shift.to(answer)
            wide = answer.dim() == 4 and moved.dim() == 1
            return answer + (moved[:, None, None] if wide else moved)

        return add

    handles = [
        network.get_submodule(name).register_forward_hook(adding(shift))
        for name, shift in shifts.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
