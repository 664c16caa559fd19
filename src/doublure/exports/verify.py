"""Comparison of a file's outputs with the network's, in a new process, at several batch sizes.

A float file must agree with the network up to the order of its sums:
max |file - network| <= 1e-4 max(1, max |network|).
In a network with fake quantization, a difference in the last digit can become a whole quantization
step: root mean square (file - network) <= 0.05 std(network). An eight-bit file rounds, and its
`agreement` shows the effect. It fails only if it is broken, not merely rounded: root mean square
(file - network) > 0.5 std(network).
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from doublure.engine.description import named_outputs
from doublure.exports import reopen
from doublure.exports.reopen import Outputs
from doublure.nets.batchnorm_statistics import by_batch
from doublure.nets.doubts import BY_BATCH
from doublure.nets.network import Network, freeze

FLOAT_TOLERANCE = 1e-4
ROUNDED_TOLERANCE = 0.05
INT8_TOLERANCE = 0.5


class VerificationError(RuntimeError):
    """An exported file does not open, or its outputs differ from the network's."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference between a file's and its network's outputs.

    Args:
        max_difference: largest absolute difference of two numbers of an output.
        agreement: share of images with equal outputs, in the sense of their task.
    """

    max_difference: float
    agreement: float


def answers_of(
    network: Network[Any], probe: Float[Tensor, "batch channels height width"]
) -> Outputs:
    """Return the network's own outputs in eval mode on the CPU, by name.

    Raises:
        ValueError: if its outputs are not finite tensors with one row per image, or depend on the
            other images of a batch.
    """
    if layer := by_batch(network.body):
        raise ValueError(
            f"the network {BY_BATCH.format(layer=layer)}; nothing was exported: let it keep them, "
            "or distil it into an architecture that does"
        )
    with torch.inference_mode():
        output = freeze(network).to("cpu", torch.float32)(probe.detach().float().cpu())
    found = {}
    for name, part in named_outputs(output).items():
        if not isinstance(part, Tensor) or part.ndim < 2 or len(part) != len(probe):
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(
                f"export needs a network that answers (batch, classes, ...), got {got} as '{name}'"
            )
        if bad := int((~part.isfinite()).sum()):
            raise ValueError(
                f"the network itself answers {len(probe)} probe images with {bad} of "
                f"{part.numel()} {name} not finite; nothing was exported: mend the network first"
            )
        found[name] = part.numpy()
    return found


def verify(
    form: str,
    path: Path,
    probe: Float[Tensor, "batch channels height width"],
    expected: Outputs,
    agree: Callable[[Outputs, Outputs], float],
    *,
    code: str = "",
    loader: str = "",
    rounds: bool = False,
) -> Comparison:
    """Reopen `path` in a new process and return the comparison with `expected`.

    Args:
        expected: the network's outputs, as from `answers_of`.
        agree: returns the share of images with equal outputs.
        code: the file with the code of a student's own architecture, which runs there.
        loader: the module whose `load` opens a student's folder, for the form that is one.
        rounds: whether the network itself rounds its activations.

    Raises:
        VerificationError: if it does not open, or differs more than its form allows.
    """
    images = probe.detach().float().cpu().numpy()
    sizes = sorted({1, min(3, len(images)), len(images)})
    worst = 0.0
    outputs: Outputs = {}
    for size, outputs in _replay(form, path, images, sizes, code, loader):
        if outputs.keys() != expected.keys():
            raise VerificationError(
                f"{path.name} answers with {', '.join(outputs)}, the network with "
                f"{', '.join(expected)}"
            )
        for name, output in outputs.items():
            wanted = expected[name][: max(size, reopen.FEWEST)]
            if output.shape != wanted.shape:
                raise VerificationError(
                    f"{path.name} answers {len(wanted)} images in batches of {size} with {name} of "
                    f"shape {output.shape}, the network with {wanted.shape}"
                )
            _check(form, path, size, name, output, wanted, rounds=rounds)
            worst = max(worst, float(np.abs(output - wanted).max()))
    # The last batch size includes all images.
    return Comparison(max_difference=worst, agreement=agree(outputs, expected))


def _check(
    form: str,
    path: Path,
    size: int,
    name: str,
    output: np.ndarray,
    expected: np.ndarray,
    *,
    rounds: bool,
) -> None:
    off = output.astype(np.float64) - expected
    if form == "int8-onnx" or rounds:
        kind, far = "the root mean square difference", float(np.sqrt(np.square(off).mean()))
        allowed = (ROUNDED_TOLERANCE if rounds else INT8_TOLERANCE) * float(expected.std())
        way_out = "" if rounds else "; calibrate on images nearer to its task, or export onnx"
    else:
        kind, far = "the largest difference", float(np.abs(off).max())
        allowed = FLOAT_TOLERANCE * max(1.0, float(np.abs(expected).max()))
        way_out = ""
    if not far <= allowed:  # also true if `far` is NaN
        raise VerificationError(
            f"{path.name} does not answer as the network does: at batch size {size} {kind} of the "
            f"{name} is {far:.3g}, allowed {allowed:.3g}{way_out}"
        )


def _replay(
    form: str, path: Path, images: np.ndarray, sizes: list[int], code: str, loader: str
) -> list[tuple[int, Outputs]]:
    """Return the outputs of a new process for each batch size, as from `reopen`."""
    with tempfile.TemporaryDirectory() as scratch:
        probe, answers = Path(scratch, "probe.npy"), Path(scratch, "answers.npz")
        np.save(probe, images)
        # -P: the program's own folder, with its onnx.py, must not hide the package.
        program = [sys.executable, "-P", reopen.__file__]
        arguments = [form, path, probe, answers, code, loader, *sizes]
        done = subprocess.run(
            [*program, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            reason = said[-1] if said else f"exit status {done.returncode}"
            raise VerificationError(f"{path.name} does not open in a fresh process: {reason}")
        with np.load(answers, allow_pickle=False) as archive:
            by_size: dict[int, Outputs] = {size: {} for size in sizes}
            for key, output in archive.items():
                size, _, name = key.partition("/")
                by_size[int(size)][name] = output
            return list(by_size.items())
