"""Finding readouts: where in a network the answer of a linear map can be read.

What is added to an answer z shows it: with v_j added to channel j, some channel i of the answer of
a block around it grows by s_j v_j, at every place of every image alike. Where that does not hold,
z cannot be read there. Whether a ReLU follows is seen by what is subtracted: far below zero nothing
changes any more.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from doublure.nets.linear_maps import LinearMap, width_of
from doublure.nets.readouts import Readout, answer_of, runner, shifted

# How far apart responses that are equal in exact arithmetic may lie.
_TOLERANCE = 1e-3
# How many times the largest value of the example a shift is, so that other images fit as well.
_ROOM = 16.0
# Below zero, beyond what any network answers.
_FAR = 1e6


def own_readout(
    network: nn.Module, linear: LinearMap, run: Callable[[], Tensor] | None = None
) -> Readout:
    """Return the readout of a map right behind itself.

    Args:
        run: calls a part of the network that a ReLU behind the map would be in; without, none is
            looked for.
    """
    width = width_of(network.get_submodule(linear.layer))
    return Readout(
        map=linear,
        module=linear.last,
        channels=torch.arange(width),
        scale=torch.ones(width),
        rectified=run is not None and _is_rectified(network, linear, run),
    )


def end_readout(
    network: nn.Module, inputs: Any, module: str, maps: Sequence[LinearMap]
) -> Readout | None:
    """Return the readout of the last linear map before a module's end, there; None without one.

    Maps on a shortcut, which see nothing of what the others made, are no block's last.
    """
    inner = [linear for linear in maps if linear.layer.startswith(f"{module}.")]
    if inner:
        run = runner(network, inputs, module)
        candidates = [x for x in inner if _sees_others(network, run, x, inner)] or inner
    else:
        for linear in maps:
            if module in (linear.layer, linear.norm):
                return own_readout(network, linear, runner(network, inputs, ""))
        run = partial(answer_of, network, inputs, module)
        candidates = list(maps)
    for linear in reversed(candidates):
        found = _read_at_end(network, run, module, linear)
        if found is not None:
            return found
    return None


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
        rectified=_is_rectified(network, linear, run),
    )


def _response(grown: Tensor, size: float) -> Tensor | None:
    """Return by how much each channel grew for each unit added; None if not everywhere alike."""
    rows = grown.reshape(-1, grown.shape[-1]) / size
    middle = rows.mean(0)
    # In proportion, or a gate that is nearly saturated would pass for a small, constant factor.
    if float((rows - middle).abs().max()) > _TOLERANCE * min(1.0, float(middle.abs().max())):
        return None
    return torch.where(middle.abs() > _TOLERANCE, middle, 0.0)


def _is_rectified(network: nn.Module, linear: LinearMap, run: Callable[[], Tensor]) -> bool:
    """Whether a map's answers far below zero are all one."""
    answers = []
    for depth in (1.0, 2.0):
        with shifted(network, {linear.last: torch.tensor(-depth * _FAR)}):
            answers.append(run())
    return torch.equal(*answers)
