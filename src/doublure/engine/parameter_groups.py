"""Parameter groups by kind of layer, each with its own learning rate and weight decay."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from doublure.core.checks import one_of, positive

Layers = Literal["batchnorm", "layernorm", "convolution", "linear", "other"]
Parameters = Literal["all", "weight", "bias"]

_CLASSES: dict[Layers, tuple[type[nn.Module], ...]] = {
    "batchnorm": (_BatchNorm,),
    "layernorm": (nn.LayerNorm, nn.GroupNorm),
    "convolution": (_ConvNd,),
    "linear": (nn.Linear,),
}


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Training settings for the parameters of one kind of layer.

    Args:
        layers: the kind; "other" is all other layers.
        parameters: all of such a layer, or only its weight (for BatchNorm the scale) or its bias.
        rate: factor on the learning rate.
        decay: weight decay in place of the optimizer's; None for the same.
    """

    layers: Layers
    parameters: Parameters = "all"
    rate: float = 1.0
    decay: float | None = None

    def __post_init__(self) -> None:
        one_of("layers", self.layers, get_args(Layers))
        one_of("parameters", self.parameters, get_args(Parameters))
        positive("rate", self.rate)
        if self.decay is not None and self.decay < 0:
            raise ValueError(f"decay must not be negative, got {self.decay}")


def parameter_groups(
    module: nn.Module,
    groups: tuple[ParameterGroup, ...] = (),
    rates: tuple[tuple[str, float], ...] = (),
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer, with "factor", and "weight_decay" if it differs.

    Args:
        groups: a parameter belongs to the first group that matches.
        rates: (glob, factor) pairs on names; they multiply the factor of the group.

    Raises:
        ValueError: a group or a glob matches no parameter.
    """
    kinds = dict(_kinds(module))
    laid: dict[tuple[float, float | None], list[nn.Parameter]] = {(1.0, None): []}
    used = set[object]()
    for name, parameter in module.named_parameters():
        factor, decay = 1.0, None
        own = next((group for group in groups if _fits(group, kinds[name], name)), None)
        if own is not None:
            used.add(own)
            factor, decay = own.rate, own.decay
        for pattern, value in rates:
            if fnmatch.fnmatchcase(name.removeprefix("student.").removeprefix("body."), pattern):
                used.add(pattern)
                factor *= value
        laid.setdefault((factor, decay), []).append(parameter)
    if unmatched := sorted({pattern for pattern, _ in rates} - used):
        raise ValueError(f"rates match no parameter of the student: {unmatched}")
    for group in groups:
        if group not in used:
            what = "parameters" if group.parameters == "all" else group.parameters
            raise ValueError(
                f"the student has no {what} of {group.layers} layers; remove the group"
            )
    return [
        {"params": some, "factor": factor} | ({} if decay is None else {"weight_decay": decay})
        for (factor, decay), some in laid.items()
        if some
    ]


def undecayed_vectors(module: nn.Module, *, batchnorm_rate: float) -> tuple[ParameterGroup, ...]:
    """Return groups by which scales and shifts of normalisation, and biases, do not decay.

    There is a group for what the module has. BatchNorm is told by the layer's type and not by its
    parameters' shape, as LayerNorm, PReLU and depthwise convolutions hold vectors, too.

    Args:
        batchnorm_rate: factor on the learning rate of the scales of BatchNorm.
    """
    present = {(kind, name.rpartition(".")[2]) for name, kind in _kinds(module)}
    vectors: tuple[tuple[Layers, Parameters, float], ...] = (
        ("batchnorm", "weight", batchnorm_rate),
        ("batchnorm", "bias", 1.0),
        ("layernorm", "weight", 1.0),
        ("layernorm", "bias", 1.0),
        ("convolution", "bias", 1.0),
        ("linear", "bias", 1.0),
    )
    return tuple(
        ParameterGroup(layers=layers, parameters=parameters, rate=rate, decay=0.0)
        for layers, parameters, rate in vectors
        if (layers, parameters) in present
    )


def _kinds(module: nn.Module) -> Iterator[tuple[str, Layers]]:
    """Yield each parameter's name with the kind of its layer."""
    for place, layer in module.named_modules():
        kind: Layers = next(
            (kind for kind, classes in _CLASSES.items() if isinstance(layer, classes)), "other"
        )
        for name, _ in layer.named_parameters(recurse=False):
            yield f"{place}.{name}" if place else name, kind


def _fits(group: ParameterGroup, kind: Layers, name: str) -> bool:
    return group.layers == kind and group.parameters in ("all", name.rpartition(".")[2])
