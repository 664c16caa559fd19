"""`quantize`: round a network to few bits, calibrated on any images, then distil it."""

from pathlib import Path
from typing import Any, Unpack

from torch import nn

from doublure.compress.post_training_quantization import CalibrationMethod, PostTrainingQuantization
from doublure.core.protocols import InputContract, Source
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
    weight_bits: int = PostTrainingQuantization.weight_bits,
    activation_bits: int = PostTrainingQuantization.activation_bits,
    first_last_bits: int = PostTrainingQuantization.first_last_bits,
    calibration_method: CalibrationMethod = PostTrainingQuantization.calibration_method,
    correct_bias: bool = PostTrainingQuantization.correct_bias,
    transfer: str | Source | None = None,
    train_batchnorm: bool = False,
    **options: Unpack[TeachOptions],
) -> dict[str, Any]:
    """Quantize weights and activations of `model`, and return the run's summary.

    Args:
        calibration: images for the ranges of activations; by default the transfer set's, or shader
            images.
        weight_bits: bit width of weights, 2 to 8, or 32 for off; activation_bits likewise.
        first_last_bits: minimum bit width of the first and the last layer; 0 treats them like the
            others.
        calibration_method: method for the ranges: "minmax", "percentile" or "mse".
        transfer: transfer set of the distillation, in place of shader images.
        train_batchnorm: update BatchNorm statistics on the transfer set.
        steps: steps of training with rounded weights; none without steps or a budget.
        options: of `verbs.run_options.TeachOptions`.
    """

    steps = options.get("steps")

    def make(reference: NetworkRef, contract: InputContract) -> Recipe:
        shown = None if transfer is None else source_named(transfer, contract=contract)
        seen = shown or Shaders()
        if calibration is not None:
            seen = source_named(calibration, contract=contract)
        rounding = PostTrainingQuantization(
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            first_last_bits=first_last_bits,
            calibration_method=calibration_method,
            correct_bias=correct_bias,
        )
        return smaller(
            "quantize",
            reference,
            contract,
            [ModelTransform(transform=rounding, source=seen)],
            transfer=shown,
            steps=int(options.get("budget") is not None) if steps is None else steps,
            train_batchnorm=train_batchnorm,
        )

    return run_changed("quantize", make, model, out, options)
