"""Readouts: where the answer of a linear map can be read in a network, behind what follows it.

A linear map is a convolution or linear layer, together with the BatchNorm that its answer goes
into, if any. Within a block its answer z is often seen only behind a sum with a shortcut and an
activation. What is added to z shows how: with v_j added to channel j, some channel i of the
block's answer grows by s_j v_j at every place of every image. Of a ReLU behind it only positive
values are seen; a shift that makes all of them positive shows the others.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Indices along all dimensions of an answer but that of its channels.
Places = tuple[Tensor, ...]
# How far apart responses that are equal in exact arithmetic may lie.
_TOLERANCE = 1e-3
# How many times the largest value of the example a shift is, so that other images fit as well.
_ROOM = 16.0


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """A layer, and the BatchNorm that its answer goes into; None for none."""

    layer: str
    norm: str | None = None

    @property
    def last(self) -> str:
        """The module whose answer is the map's."""
        return self.norm or self.layer


@dataclass(frozen=True, kw_only=True, eq=False)
class Readout:
    """Where the answer of a linear map is read.

    Args:
        module: whose answer is read.
        channels: of that answer, one for each channel of the map.
        scale: by which each is multiplied on the way.
        shift: what is added to the map's answer while it is read.
    """

    map: LinearMap
    module: str
    channels: Tensor
    scale: Tensor
    shift: float = 0.0

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


def linear_maps(network: nn.Module, inputs: Any) -> tuple[LinearMap, ...]:
    """Return the linear maps of a network that are called once, in the order of their calls."""
    answers: dict[int, tuple[str, Tensor]] = {}
    order: dict[str, str | None] = {}
    again: set[str] = set()

    def note(name: str, module: nn.Module, given: Any, answer: Any) -> None:
        if _is_linear(module, answer):
            again.update({name} & order.keys())
            order[name] = None
            answers[id(answer)] = (name, answer)  # kept, so that no other gets its id
        elif _is_adjustable(module) and id(given[0]) in answers:
            order[answers[id(given[0])][0]] = name

    with _watched(network, note), torch.no_grad():
        network(inputs)
    return tuple(
        LinearMap(layer=layer, norm=norm) for layer, norm in order.items() if layer not in again
    )


def _is_linear(module: nn.Module, answer: Any) -> bool:
    # A linear layer on a map has its channels last, where nothing else on maps has them.
    if isinstance(module, nn.Linear):
        return isinstance(answer, Tensor) and answer.dim() in (2, 3)
    return isinstance(module, nn.Conv2d)


def _is_adjustable(module: nn.Module) -> bool:
    is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return is_norm and module.running_mean is not None and bool(module.affine)


def own_readout(network: nn.Module, linear: LinearMap) -> Readout:
    """Return the readout of a map right behind itself."""
    width = width_of(network.get_submodule(linear.layer))
    return Readout(
        map=linear, module=linear.last, channels=torch.arange(width), scale=torch.ones(width)
    )


def width_of(layer: nn.Module) -> int:
    """Return how many channels a linear map answers with."""
    width: Any = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
    return int(width)


def block_readout(
    network: nn.Module, inputs: Any, block: str, maps: Sequence[LinearMap]
) -> Readout | None:
    """Return the readout of a block's last linear map at the block's end; None where there is none.

    Maps on a shortcut, which see nothing of what the others made, are no block's last.
    """
    inner = [linear for linear in maps if linear.layer.startswith(f"{block}.")]
    if not inner:
        return None
    run = _block_runner(network, inputs, block)
    for linear in reversed([x for x in inner if _sees_others(network, run, x, inner)] or inner):
        found = _read_at_end(network, run, block, linear)
        if found is not None:
            return found
    return None


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


class _Reached(Exception):  # noqa: N818  # no error: the rest of a network need not be called
    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer


def read_map(network: nn.Module, inputs: Any, readout: Readout) -> tuple[Tensor, Tensor]:
    """Return what the layer of a readout is given, and the answer that its rows are read from."""
    given: list[Tensor] = []

    def stop(_module: nn.Module, _given: Any, answer: Tensor) -> None:
        raise _Reached(answer)

    layer, module = (network.get_submodule(x) for x in (readout.map.layer, readout.module))
    handles = [layer.register_forward_pre_hook(lambda _m, seen: given.append(seen[0]))]
    handles.append(module.register_forward_hook(stop))
    try:
        with shifted(network, readout.shifts), torch.no_grad():
            network(inputs)
    except _Reached as reached:
        return given[0], reached.answer
    finally:
        for handle in handles:
            handle.remove()
    raise AssertionError(f"'{readout.module}' was not called")


def _block_runner(network: nn.Module, inputs: Any, block: str) -> Callable[[], Any]:
    module = network.get_submodule(block)
    given: list[tuple[Any, Any]] = []
    handle = module.register_forward_pre_hook(
        lambda _module, args, kwargs: given.append(_copied((args, kwargs))), with_kwargs=True
    )
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        handle.remove()

    def run() -> Any:
        args, kwargs = _copied(given[-1])
        with torch.no_grad():
            return module(*args, **kwargs)

    return run


def _copied(value: Any) -> Any:
    """Return arguments that an in-place operation cannot reach."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, dict) else value


def _sees_others(
    network: nn.Module, run: Callable[[], Any], linear: LinearMap, inner: Sequence[LinearMap]
) -> bool:
    """Whether what enters a map changes with the answers of the block's other maps."""
    seen: list[Tensor] = []
    layer = network.get_submodule(linear.layer)
    handle = layer.register_forward_pre_hook(lambda _m, given: seen.append(given[0].clone()))
    try:
        run()
        others = [x.last for x in inner if x.last != linear.last]
        with shifted(network, {name: torch.tensor(1.0) for name in others}):
            run()
    finally:
        handle.remove()
    return not torch.equal(seen[0], seen[1])


def _read_at_end(
    network: nn.Module, run: Callable[[], Any], block: str, linear: LinearMap
) -> Readout | None:
    width = width_of(network.get_submodule(linear.layer))

    def answer(shift: Tensor) -> Tensor:
        with shifted(network, {linear.last: shift}):
            answered: Tensor = run().double()
        return answered.movedim(1, -1) if answered.dim() == 4 else answered

    still = answer(torch.zeros(width))
    size = 2.0 ** math.ceil(math.log2(_ROOM * max(1e-3, float(still.abs().max()))))
    even, ramp = torch.ones(width) * size, torch.arange(width) / width * size
    raised = answer(even)
    scale = _response(answer(2 * even) - raised, size)
    steps = _response(answer(2 * even + ramp) - answer(2 * even), size)
    if scale is None or steps is None:
        return None
    active = (scale.abs() > 0).nonzero()[:, 0]
    if len(active) != width:
        return None
    order = (steps[active] / scale[active] * width).round().long()
    if not torch.equal(order.sort().values, torch.arange(width, device=order.device)):
        return None
    channels = active[order.argsort()]
    lowered = raised[..., channels] - size * scale[channels]
    hidden = not torch.allclose(lowered, still[..., channels], rtol=0, atol=_TOLERANCE)
    return Readout(
        map=linear,
        module=block,
        channels=channels.cpu(),
        scale=scale[channels].float().cpu(),
        shift=size if hidden else 0.0,
    )


def _response(grown: Tensor, size: float) -> Tensor | None:
    """Return by how much each channel grew for each unit added; None if not everywhere alike."""
    rows = grown.reshape(-1, grown.shape[-1]) / size
    middle = rows.mean(0)
    if float((rows - middle).abs().max()) > _TOLERANCE:
        return None
    return torch.where(middle.abs() > _TOLERANCE, middle, 0.0)


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


@contextmanager
def _watched(network: nn.Module, note: Callable[..., None]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(
            lambda module, given, answer, name=name: note(name, module, given, answer)
        )
        for name, module in network.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
