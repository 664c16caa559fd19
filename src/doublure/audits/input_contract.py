"""The content of a checkpoint, and a check of its stated normalisation.

Counts and costs come from the network and one forward pass. The normalisation is checked against
the first BatchNorm (see `normalisation`) and doubted only if a well-known one is at least ten times
as likely as the stated one; without BatchNorm statistics there is no statement. Non-finite weights
fail the audit, by name.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from doublure.audits.normalisation import (
    FirstLayer,
    Normalisation,
    Reading,
    correlation_length,
    enough_filters,
    rank,
)
from doublure.core.findings import Finding
from doublure.core.protocols import InputContract
from doublure.nets.doubts import ONE_NUMBER, doubts
from doublure.nets.network import Network, count_parameters, freeze

# Strong evidence on Jeffreys' scale; with less, the user's statement holds.
_MARGIN = 10.0


class NotCheckableError(ValueError):
    """The normalisation cannot be determined from this network; the message has the reason."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Observations of one forward pass.

    Args:
        convolution: the first convolution that was called, None if there is none.
        sees_image: whether its input is the architecture's input.
        batchnorm: the BatchNorm that directly receives its output, None if there is none.
        flops: floating-point operations of convolutions and matrix products, for this one image.
    """

    output: Any
    convolution: nn.Conv2d | None
    sees_image: bool
    batchnorm: nn.BatchNorm2d | None
    flops: int


def inspect_network(network: Network) -> Finding:
    """Return the network's properties, and a check of its stated normalisation."""
    damaged = not_finite(network.body)
    probe = probe_network(network)
    measurements = _describe(network, probe)
    measurements["not_finite"] = damaged
    verdict, summary, measurements["normalisation"] = _check_normalisation(network, probe, damaged)
    for doubt in doubts(network, probe.output):
        verdict, summary = "warn", f"the network {doubt}; {summary}"
    fault = _fault(network.contract, probe.output, damaged)
    if fault is not None:
        verdict, summary = "fail", fault
    return Finding(
        name="input contract",
        verdict=verdict,
        summary=summary,
        tag="proxy",
        measurements=measurements,
    )


def not_finite(body: nn.Module) -> dict[str, int]:
    """Return the number of NaN or infinite values of each damaged tensor, by key."""
    counts = {
        key: int((~tensor.isfinite()).sum())
        for key, tensor in body.state_dict().items()
        if tensor.is_floating_point()
    }
    return {key: count for key, count in counts.items() if count}


class _Watch:
    """Hooks on a temporary copy: its first convolution and the BatchNorm after it."""

    def __init__(self, body: nn.Module) -> None:
        self.image: Tensor | None = None
        self.convolution: nn.Conv2d | None = None
        self.sees_image = False
        self.answer: Tensor | None = None
        self.batchnorm: nn.BatchNorm2d | None = None
        body.register_forward_pre_hook(self._enter)
        for layer in body.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                layer.register_forward_hook(self._pass)

    def _enter(self, body: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.image = inputs[0].clone()

    def _pass(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d) and self.convolution is None:
            assert self.image is not None
            self.convolution, self.answer = layer, output
            self.sees_image = torch.equal(inputs[0], self.image)
        if isinstance(layer, nn.BatchNorm2d) and inputs[0] is self.answer:
            self.batchnorm = layer


def probe_network(network: Network) -> Probe:
    """Return the observations for one image; the network is unchanged."""
    frozen = freeze(network)
    assert isinstance(frozen, Network)
    watch = _Watch(frozen.body)
    counter = FlopCounterMode(display=False)
    try:
        # Fused attention is missing from the counter's table on the CPU.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            output = frozen(_ramp(frozen))
    except RuntimeError as error:
        shape = " x ".join(map(str, (network.contract.channels, *network.contract.size)))
        reason = str(error).splitlines()[0]
        raise ValueError(f"the network cannot take the stated {shape} image: {reason}") from error
    return Probe(
        output=output,
        convolution=watch.convolution,
        sees_image=watch.sees_image,
        batchnorm=watch.batchnorm,
        flops=counter.get_total_flops(),
    )


def first_layer(probe: Probe, contract: InputContract) -> FirstLayer:
    """Return the first convolution with the statistics of its BatchNorm, in float64 on the CPU.

    Raises:
        NotCheckableError: if the network has no such layers, or is untrained.
    """
    convolution, batchnorm = probe.convolution, probe.batchnorm
    if contract.channels != 3:
        raise NotCheckableError(
            f"the network takes {contract.channels} channel(s); only colour photographs are known"
        )
    if convolution is None:
        raise NotCheckableError("the network has no convolution")
    if not probe.sees_image:
        raise NotCheckableError("the first convolution does not see the normalised image itself")
    if convolution.groups != 1:
        raise NotCheckableError("the first convolution works in groups")
    if batchnorm is None:
        raise NotCheckableError("no BatchNorm follows the first convolution")
    if batchnorm.running_mean is None or batchnorm.running_var is None:
        raise NotCheckableError("the first BatchNorm keeps no running statistics")
    means, variances = batchnorm.running_mean.double().cpu(), batchnorm.running_var.double().cpu()
    if not means.any() and variances.eq(1).all():
        raise NotCheckableError("the first BatchNorm has seen no images yet")
    kernels = convolution.weight.detach().double().cpu()
    if convolution.bias is not None:
        means = means - convolution.bias.detach().double().cpu()
    spacing = max(convolution.dilation)
    first = FirstLayer(
        kernels=kernels,
        kernel_sums=_kernel_sums(convolution, kernels, contract.size),
        means=means,
        variances=variances,
        correlation_length=correlation_length(contract.size) / spacing,
    )
    if not enough_filters(first):
        raise NotCheckableError("the first convolution has too few filters")
    return first


def _kernel_sums(convolution: nn.Conv2d, kernels: Tensor, size: tuple[int, int]) -> Tensor:
    # One image for each channel, white in it and black elsewhere: the convolution's own padding,
    # stride and dilation then decide how often a tap of the kernel falls outside.
    white = torch.eye(kernels.shape[1], dtype=kernels.dtype)[:, :, None, None].expand(-1, -1, *size)
    weights = {"weight": kernels}
    if convolution.bias is not None:
        weights["bias"] = torch.zeros(len(kernels), dtype=kernels.dtype)
    answers: Tensor = functional_call(convolution, weights, (white,))
    return answers.mean((2, 3)).T


def _check_normalisation(
    network: Network, probe: Probe, damaged: Mapping[str, int]
) -> tuple[Literal["ok", "warn", "fail"], str, dict[str, Any]]:
    contract = network.contract
    try:
        if damaged:
            raise NotCheckableError("the weights are damaged")
        first = first_layer(probe, contract)
    except NotCheckableError as reason:
        summary = f"normalisation not checkable: {reason}"
        return "ok", summary, {"checkable": False, "reason": str(reason)}
    stated, known = rank(first, Normalisation(mean=contract.mean, std=contract.std))
    best = known[0]
    measurements = {
        "checkable": True,
        "stated": _as_measurements(stated, best),
        "candidates": [_as_measurements(reading, best) for reading in known],
        "equally_likely": [r.name for r in known if not _clearly_better(best, r)],
        "channel_order": "cannot be told",
    }
    if _clearly_better(best, stated):
        return "warn", _doubt(stated, best), measurements
    summary = (
        "the stated normalisation is plausible: read through it, the first BatchNorm has seen "
        f"images of {_images(stated)}"
    )
    return "ok", summary, measurements


def _clearly_better(reading: Reading, than: Reading) -> bool:
    return reading.log_likelihood - than.log_likelihood > math.log(_MARGIN)


def _as_measurements(reading: Reading, best: Reading) -> dict[str, Any]:
    return {
        "name": reading.name,
        "mean": reading.normalisation.mean,
        "std": reading.normalisation.std,
        "implied_mean": reading.mean,
        "implied_std": reading.std,
        "misfit": reading.misfit,
        "relative_likelihood": math.exp(min(0.0, reading.log_likelihood - best.log_likelihood)),
    }


def _doubt(stated: Reading, best: Reading) -> str:
    return (
        f"the stated normalisation ({_constants(stated.normalisation)}) is doubtful: read through "
        f"it, the first BatchNorm has seen images of {_images(stated)}, unlike photographs; read "
        f"through '{best.name}', of {_images(best)}; if that is right, state "
        f"{_constants(best.normalisation)}"
    )


def _images(reading: Reading) -> str:
    return f"mean {_numbers(reading.mean)} and std {reading.std:.2g}"


def _constants(normalisation: Normalisation) -> str:
    return f"mean {_numbers(normalisation.mean)}, std {_numbers(normalisation.std)}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _ramp(network: Network) -> Tensor:
    # Any image that is not constant is suitable.
    contract = network.contract
    shape = (1, contract.channels, *contract.size)
    return torch.linspace(0, 1, math.prod(shape)).view(shape).to(network.mean)


def _describe(network: Network, probe: Probe) -> dict[str, Any]:
    contract = network.contract
    tensors = network.body.state_dict().values()
    leaves = [layer for layer in network.body.modules() if not any(layer.children())]
    return {
        "reference": network.reference,
        "parameters": count_parameters(network.body),
        "buffers": sum(buffer.numel() for buffer in network.body.buffers()),
        "weight_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "layers": dict(Counter(type(layer).__name__ for layer in leaves).most_common()),
        "batchnorm_layers": sum(isinstance(layer, _BatchNorm) for layer in leaves),
        "flops_per_image": probe.flops,
        "size": contract.size,
        "channels": contract.channels,
        "mean": contract.mean,
        "std": contract.std,
        "classes": contract.classes,
        "names": contract.names,
    }


def _fault(contract: InputContract, output: Any, damaged: Mapping[str, int]) -> str | None:
    if damaged:
        key, count = next(iter(damaged.items()))
        others = {1: "", 2: ", as does 1 other tensor"}.get(
            len(damaged), f", as do {len(damaged) - 1} other tensors"
        )
        return (
            f"'{key}' holds {count} NaN or infinite value(s){others}; load an undamaged checkpoint"
        )
    if isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] != contract.classes:
        return (
            f"the network answers with {output.shape[1]} numbers, but {contract.classes} classes "
            "are stated; state the number of classes it was trained on"
        )
    return f"the network {ONE_NUMBER}" if contract.classes == 1 else None
