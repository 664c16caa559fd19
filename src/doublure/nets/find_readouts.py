"""Search for readouts: places in a network from which the output of a linear map can be computed.

A shift of an output z locates it: if v_j is added to channel j, some channel i of an enclosing
block's output must grow by s_j v_j at every position of every image; otherwise z cannot be read
there. A large negative shift detects a ReLU: far below zero the output is constant.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from doublure.nets.linear_maps import LinearMap, width_of
from doublure.nets.readouts import Readout, answer_of, runner, shift_outputs

# Tolerance between responses that are equal in exact arithmetic.
_TOLERANCE = 1e-3
# A shift in units of the example's largest value, so that it suffices for other images.
_ROOM = 16.0
# Far below the outputs of any network.
_FAR = 1e6


def own_readout(
    network: nn.Module, linear: LinearMap, run: Callable[[], Tensor] | None = None
) -> Readout:
    """Return the readout of a map at its own output.

    Args:
        run: runs a part of the network that would contain a ReLU after the map; None skips that
            search.
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
    """Return the readout at a module's end of its last linear map; None if there is none.

    Maps on a shortcut, whose input does not depend on the other maps, do not count as last.
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
    """Return whether the input of a map depends on the outputs of the block's other maps."""
    seen: list[Tensor] = []
    layer = network.get_submodule(linear.layer)
    handle = layer.register_forward_pre_hook(lambda _m, given: seen.append(given[0].clone()))
    try:
        run()
        others = [x.last for x in inner if x.last != linear.last]
        with shift_outputs(network, {name: torch.tensor(1.0) for name in others}):
            run()
    finally:
        handle.remove()
    return not torch.equal(seen[0], seen[1])


def _read_at_end(
    network: nn.Module, run: Callable[[], Any], block: str, linear: LinearMap
) -> Readout | None:
    width = width_of(network.get_submodule(linear.layer))

    def answer(shift: Tensor) -> Tensor:
        with shift_outputs(network, {linear.last: shift}):
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
    """Return the growth of each channel per added unit; None if it is not uniform."""
    rows = grown.reshape(-1, grown.shape[-1]) / size
    middle = rows.mean(0)
    # Relative: a nearly saturated gate would otherwise look like a small, constant factor.
    if float((rows - middle).abs().max()) > _TOLERANCE * min(1.0, float(middle.abs().max())):
        return None
    return torch.where(middle.abs() > _TOLERANCE, middle, 0.0)


def _is_rectified(network: nn.Module, linear: LinearMap, run: Callable[[], Tensor]) -> bool:
    """Return whether a map's outputs far below zero are constant."""
    answers = []
    for depth in (1.0, 2.0):
        with shift_outputs(network, {linear.last: torch.tensor(-depth * _FAR)}):
            answers.append(run())
    return torch.equal(*answers)
