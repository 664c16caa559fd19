"""`quantize`: round a network to few bits, calibrated on any images, then distil it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

from torch import nn

from doublure.compress.activation_ranges import CalibrationMethod
from doublure.compress.choosing_bits import Search
from doublure.compress.mixed_precision import MixedPrecision
from doublure.compress.post_training_quantization import (
    PostTrainingQuantization,
    Ranges,
    Rounding,
)
from doublure.core.protocols import InputContract, Source, Transform
from doublure.engine.recipe import ModelTransform, Recipe
from doublure.nets.references import NetworkRef
from doublure.recipes import smaller
from doublure.sources.shaders import Shaders
from doublure.verbs.changing import run_changed
from doublure.verbs.naming import source_named
from doublure.verbs.run_options import TeachOptions


def quantize(
    model: str | NetworkRef | nn.Module | None = None,
    calibration: str | Source | None = None,
    *,
    out: str | Path,
    bits: int | Literal["auto"] | None = None,
    target: str | None = None,
    search: Search | None = None,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    first_last_bits: int = PostTrainingQuantization.first_last_bits,
    layer_bits: Sequence[str] = (),
    ranges: Ranges = PostTrainingQuantization.ranges,
    symmetric: bool = PostTrainingQuantization.symmetric,
    calibration_method: CalibrationMethod = PostTrainingQuantization.calibration_method,
    rounding: Rounding = PostTrainingQuantization.rounding,
    equalise: bool = PostTrainingQuantization.equalise,
    correct_bias: bool = PostTrainingQuantization.correct_bias,
    transfer: str | Source | None = None,
    train_batchnorm: bool = False,
    **options: Unpack[TeachOptions],
) -> dict[str, Any]:
    """Quantize weights and activations of `model`, and return the run's summary.

    Args:
        calibration: images for the ranges of activations; by default the transfer set's, or
            shader images.
        bits: bit width of weights and activations, in place of weight_bits and activation_bits;
            "auto" chooses those of each layer.
        target: limit for "auto": "4.5bits", "0.3size" (of float32) or "2ms".
        search: search of "auto": "milp" (exact), "greedy", "rl" or "optuna".
        weight_bits: bit width of weights, 2 to 8 (default 8), or 32 for off; activation_bits
            likewise.
        first_last_bits: minimum bit width of the first and the last layer; 0 treats them like the
            others.
        layer_bits: bit widths of single layers, as "NAME=4", or "NAME=4/8" for weights and inputs.
        ranges: ranges of activations: "static" by calibration, or "dynamic" for each image.
        symmetric: use ranges of activations that are symmetric around 0.
        calibration_method: method for the ranges: "minmax", "percentile" or "mse".
        rounding: rounding of weights: "nearest", or "adaptive" to the outputs of each layer.
        equalise: equalise the channel ranges between successive layers first.
        transfer: transfer set of the distillation, in place of shader images.
        train_batchnorm: update BatchNorm statistics on the transfer set.
        steps: steps of training with rounded weights; none without steps or a budget.
        options: of `verbs.run_options.TeachOptions`.
    """
    if bits is not None and (weight_bits, activation_bits) != (None, None):
        raise ValueError("bits stands for weight_bits and activation_bits; give it or those")
    if bits != "auto" and (target, search) != (None, None):
        raise ValueError("target and search choose bits by themselves; give bits=auto with them")
    either = bits if isinstance(bits, int) else PostTrainingQuantization.weight_bits
    steps = options.get("steps")

    def make(reference: NetworkRef, contract: InputContract) -> Recipe:
        shown = None if transfer is None else source_named(transfer, contract=contract)
        seen = shown or Shaders()
        if calibration is not None:
            seen = source_named(calibration, contract=contract)
        quantization = PostTrainingQuantization(
            weight_bits=either if weight_bits is None else weight_bits,
            activation_bits=either if activation_bits is None else activation_bits,
            first_last_bits=first_last_bits,
            layer_bits=tuple(layer_bits),
            ranges=ranges,
            symmetric=symmetric,
            calibration_method=calibration_method,
            rounding=rounding,
            equalise=equalise,
            correct_bias=correct_bias,
        )
        rounds: Transform = quantization
        if bits == "auto":
            rounds = MixedPrecision(
                quantization=quantization,
                target=target or MixedPrecision.target,
                search=search or MixedPrecision.search,
            )
        return smaller(
            "quantize",
            reference,
            contract,
            [ModelTransform(transform=rounds, source=seen)],
            transfer=shown,
            steps=int(options.get("budget") is not None) if steps is None else steps,
            train_batchnorm=train_batchnorm,
        )

    return run_changed("quantize", make, model, out, options)
