"""`export`: a network in deployable forms, each verified against the network it came from."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from doublure import networks, tasks
from doublure.catalogue import plugins
from doublure.core.protocols import Source, Split, StreamContext
from doublure.core.seeding import from_seed
from doublure.exports.exporting import FILES, export_network
from doublure.exports.int8_onnx import Int8
from doublure.exports.measure import Exported
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.verbs.naming import open_network, source_named

# Default calibration images of int8, and for the comparison of all forms.
_WITHOUT_IMAGES = "shaders"
_BATCH = 64


def export(
    model: str | NetworkRef | nn.Module,
    *,
    out: str | Path,
    format: Sequence[str] = tuple(FILES),
    calibration: str | Source | None = None,
    eval: str | None = None,
    seed: int = 0,
    weights: str | None = None,
    weights_key: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
    allow_code: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> list[Exported]:
    """Write `model` into the folder `out` in every form of `format`, and return a row per form.

    Args:
        calibration: images for the ranges of int8, preferably similar to the task's; on held-out
            ones of them, the outputs of every form are compared with the network's.
        eval: labelled data for the scores of each form.
        weights: weights of a REF; mean, std, size and classes describe it further.
        allow_code: files whose code may run if a run's folder needs it.
    """
    network = open_network(
        model,
        verb="export",
        weights=weights,
        weights_key=weights_key,
        mean=mean,
        std=std,
        size=size,
        classes=classes,
        allow_code=allow_code,
        say=say,
    )
    if calibration is None and "int8-onnx" in format:
        say(f"int8-onnx is calibrated on {_WITHOUT_IMAGES}, as no images were given")
    source = source_named(
        _WITHOUT_IMAGES if calibration is None else calibration, contract=network.contract
    )
    labelled = None
    if eval is not None:
        task = plugins().task_of(network.contract)
        labelled = task.open_evaluation_data(eval, network.contract, skip_bad=False)
    return export_network(
        network,
        Path(out),
        format,
        _images(source, network, "train", seed, Int8().num_images),
        next(_images(source, network, "held_out", seed, _BATCH)),
        labelled=labelled,
        tasks=tasks.TASKS,
        loader=networks.__name__,
    )


def _images(
    source: Source, network: Network[Any], split: Split, seed: int, count: int
) -> Iterator[Tensor]:
    """Yield batches of the source's images, on the CPU."""
    context = StreamContext(
        contract=network.contract,
        device=torch.device("cpu"),
        batch_size=_BATCH,
        steps=-(-count // _BATCH),
        split=split,
    )
    frozen = freeze(network).to("cpu")
    stream = source.open(context, frozen, from_seed(seed))
    for step in range(context.steps):
        yield stream.draw(step, None).images
