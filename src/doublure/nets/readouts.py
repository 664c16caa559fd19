"""Readouts: the output of a linear map, computed from a later output of the network.

After a sum and an activation, an output z becomes s z + shortcut, and a ReLU keeps only positive
values. A temporary shift of z makes all of it positive, and is subtracted again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from doublure.nets.linear_maps import LinearMap

# Indices in all dimensions of an output except the channels.
Places = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Readout:
    """The place from which the output of a linear map is computed.

    Args:
        module: the module whose output is read.
        channels: its output channels, one for each channel of the map.
        scale: factor of each channel between map and readout.
        shift: temporary shift of the map's output.
        rectified: whether values below zero have no effect, as before a ReLU.
    """

    map: LinearMap
    module: str
    channels: Tensor
    scale: Tensor
    shift: float = 0.0
    rectified: bool = False

    @property
    def shifts(self) -> dict[str, Tensor]:
        """The temporary shifts, by module."""
        return {self.map.last: torch.tensor(self.shift)} if self.shift else {}

    def rows(self, answer: Tensor, places: Places) -> Tensor:
        """Return the map's output (rows x channels) from the shifted output of `module`."""
        scale = self.scale.to(answer.device)
        read = rows_at(answer, places)[:, self.channels.to(answer.device)]
        return read / scale - self.shift


def rows_at(answer: Tensor, places: Places) -> Tensor:
    """Return a map, tokens or a vector at these positions as rows x channels."""
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
    """Return, for each readout, rows of its map's output and their positions.

    Args:
        choose: returns positions for the index of a readout and the shape of the output.
    """
    found: dict[int, tuple[Tensor, Places]] = {}

    def reading(i: int, readout: Readout) -> Callable[..., None]:
        def read(module: nn.Module, args: Any, kwargs: Any, answer: Tensor) -> None:
            if readout.shift:
                # In a separate call: the main one must not use the shift.
                with shift_outputs(network, readout.shifts):
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
    """Arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def bytes(self) -> int:
        """The memory of its tensors, in bytes."""
        held = (*self.args, *self.kwargs.values())
        return sum(x.numel() * x.element_size() for x in held if isinstance(x, Tensor))


def calls_of(network: nn.Module, inputs: Any, name: str) -> list[Call]:
    """Return the arguments of each call of a module."""
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
    """Return a function that calls a module (the network for "") with recorded arguments."""
    if not name:
        return torch.no_grad()(lambda: network(inputs))
    module, call = network.get_submodule(name), calls_of(network, inputs, name)[-1]
    return torch.no_grad()(lambda: module(*call.args, **call.kwargs))


class _Reached(Exception):  # noqa: N818  # no error: the rest of a network need not be called
    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer


def read_map(network: nn.Module, run: Callable[[], Any], readout: Readout) -> tuple[Tensor, Tensor]:
    """Return the input of a readout's layer, and the output from which its rows are read.

    Args:
        run: calls the network, or a part that contains the readout.
    """
    given: list[Tensor] = []
    layer = network.get_submodule(readout.map.layer)
    handle = layer.register_forward_pre_hook(lambda _m, seen: given.append(seen[0]))
    try:
        with shift_outputs(network, readout.shifts):
            answer = _reach(network, run, readout.module)
    finally:
        handle.remove()
    return given[0], answer


def answer_of(network: nn.Module, inputs: Any, module: str) -> Tensor:
    """Return the output of a module of the network."""
    return _reach(network, partial(network, inputs), module)


def _reach(network: nn.Module, run: Callable[[], Any], module: str) -> Tensor:
    """Return the output of a module in a call that stops after it."""

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
def shift_outputs(network: nn.Module, shifts: dict[str, Tensor]) -> Iterator[None]:
    """Context manager that adds a shift per channel to the outputs of modules."""

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
