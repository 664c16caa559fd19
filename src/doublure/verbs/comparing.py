"""Measurements of `shrink`: the teacher's time, and agreement of files with it."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from doublure import networks, tasks
from doublure.compress.shrinking_choice import Row
from doublure.core.protocols import Source, Split, StreamContext
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, Part
from doublure.engine.description import INPUT
from doublure.exports.exporting import FILES, export_network
from doublure.exports.measure import Answer, Timing, count_flops, on_cpu, time_forms
from doublure.exports.onnx import open_session
from doublure.nets.network import Network, count_parameters, freeze
from doublure.sources.leaves import Leaves
from doublure.sources.matched import Matched
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders

SHADERS = Matched(source=Shaders())
# Three kinds of transfer sets: the usual one, one without shapes, and one with shapes that no
# student is trained on.
SETS: Mapping[str, Source] = {
    "shaders": SHADERS,
    "noise": Matched(source=Noise()),
    "leaves": Matched(source=Leaves()),
}
_BATCH = 64
_TIMED = 16
_CALIBRATION = 256
# The final timing of a form is done together with all others, at the end.
_BRIEF = Timing(batch_size=16, rounds=3, seconds=0.1)
_SIDE_BY_SIDE = Timing(batch_size=16, seconds=6.0)
# Relative cost of a step beyond the passes of teacher and student: images and attacks.
_BESIDE = 1.5


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Images of a transfer set, and the teacher's class for each."""

    images: Tensor
    named: Tensor


def seconds_an_answer(network: Network) -> float:
    """Return the seconds of a network per image, on the CPU, in small batches."""
    images = torch.rand(_TIMED, network.contract.channels, *network.contract.size)
    answer = on_cpu(network)
    answer(images)
    began = time.perf_counter()
    answer(images)
    return (time.perf_counter() - began) / _TIMED


def seconds_a_step(network: Network, device: torch.device) -> float:
    """Return the approximate seconds of a training step per image.

    The student is assumed to be as large as its teacher, the network.
    """
    images = torch.rand(_TIMED, network.contract.channels, *network.contract.size, device=device)
    student = copy.deepcopy(network).to(device).train().requires_grad_()
    taught = freeze(network).to(device)
    for _ in range(2):  # the first call allocates
        began = time.perf_counter()
        with torch.no_grad():
            target = taught(images).softmax(1)
        torch.autograd.backward(F.cross_entropy(student(images), target))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    return _BESIDE * seconds / _TIMED


def draw(
    source: Source, network: Network, count: int, seed: int, split: Split = "train"
) -> list[Tensor]:
    """Return batches of a source's images, on the CPU."""
    context = StreamContext(
        contract=network.contract,
        device=torch.device("cpu"),
        batch_size=min(_BATCH, count),
        steps=-(-count // _BATCH),
        split=split,
    )
    stream = source.open(context, freeze(network).to("cpu"), from_seed(seed))
    return [stream.draw(step, None).images for step in range(context.steps)]


@dataclass(frozen=True, kw_only=True)
class Measurer:
    """Measures exported files against the teacher.

    Args:
        root: the folder to which paths are relative.
        sets: images of every transfer set, with the teacher's classes.
    """

    root: Path
    sets: Mapping[str, Asked]
    labelled: Dataset | None
    seed: int

    @staticmethod
    def open(
        teacher: Network,
        root: Path,
        count: int,
        labelled: Dataset | None,
        num_labelled: int | None,
        seed: int,
    ) -> "Measurer":
        """Return a measurer with this many images of every set, and this many with labels."""
        answer, sets = on_cpu(teacher), {}
        for name, source in SETS.items():
            batches = draw(source, teacher, count, child_seed(seed, "asked", name), "held_out")
            named = torch.cat([answer(images).argmax(1) for images in batches])
            sets[name] = Asked(images=torch.cat(batches), named=named)
        if labelled is not None and num_labelled is not None:
            labelled = _part_of(labelled, num_labelled, seed)
        return Measurer(root=root, sets=sets, labelled=labelled, seed=seed)

    @property
    def count(self) -> int:
        """Images of each transfer set."""
        return len(next(iter(self.sets.values())).named)

    def rows(
        self, network: Network, name: str, folder: Path, forms: Sequence[str], images: Source
    ) -> list[Row]:
        """Export a candidate into `folder`, with checks, and return a row for each of its files.

        Args:
            images: calibration images of int8.
        """
        seed = child_seed(self.seed, "calibration")
        shown = draw(images, network, _CALIBRATION, seed)
        exported = export_network(
            network,
            folder,
            forms,
            shown,
            shown[0],
            labelled=self.labelled,
            timing=_BRIEF,
            tasks=tasks.TASKS,
            loader=networks.__name__,
        )
        parameters, macs = count_parameters(network), count_flops(network) // 2
        count = None if self.labelled is None else len(self.labelled)
        rows = []
        for form in exported:
            if form.form not in forms:
                continue
            path = folder / FILES[form.form]
            answer, accuracy = _answer_of(path), form.accuracy
            agreement = {name: _agreement(answer, asked) for name, asked in self.sets.items()}
            row = Row(
                candidate=name,
                form=form.form,
                path=path.relative_to(self.root).as_posix(),
                bytes=form.bytes,
                parameters=parameters,
                macs=macs,
                agreement=agreement,
                accuracy=accuracy,
                correct=None if accuracy is None or count is None else round(accuracy * count),
                count=count,
            )
            rows.append(row)
        return rows

    def with_latencies(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows with latencies, measured for all files alternately in this process."""
        answers = {row.path: _answer_of(self.root / row.path) for row in rows}
        probe = next(iter(self.sets.values())).images[:_TIMED]
        paces = time_forms(answers, probe, _SIDE_BY_SIDE)
        return [replace(row, **asdict(paces[row.path])) for row in rows]


def _part_of(labelled: Dataset, count: int, seed: int) -> Dataset:
    """Return this many labelled images, chosen by the seed; all if there are fewer."""
    if count >= len(labelled):
        return labelled
    rng = from_seed(child_seed(seed, "labelled"))
    places = torch.randperm(len(labelled), generator=rng)[:count].sort().values
    return Part(whole=labelled, places=places)


def _answer_of(path: Path) -> Answer:
    session = open_session(path, torch.get_num_threads())
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def _agreement(answer: Answer, asked: Asked) -> float:
    named = torch.cat([answer(images).argmax(1) for images in torch.split(asked.images, _BATCH)])
    return float((named == asked.named).float().mean())
