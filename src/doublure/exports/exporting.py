"""Export of a network: every requested form, verified in a new process, measured and listed.

All forms are written into a temporary folder inside the target, and moved only after all of them
are verified. An error, including a full disk, does not change the files of an earlier export.
"""

import functools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.core.checks import one_of
from doublure.data.own_files import (
    OWN_LIST,
    RunFolderError,
    claim,
    left_parts,
    make_folder,
    part_of,
)
from doublure.engine.description import INPUT, OUTPUT, describe
from doublure.engine.loading import rebuilds, save
from doublure.engine.plugins import task_of
from doublure.engine.programs import trace_program, write_program
from doublure.engine.run_folder import write_json
from doublure.engine.task import EvaluationData, Task
from doublure.exports.int8_onnx import Int8, export_int8_onnx
from doublure.exports.measure import Answer, Exported, Timing, on_cpu, time_forms
from doublure.exports.onnx import (
    count_quantize_nodes,
    count_weight_bytes,
    open_session,
    write_onnx,
)
from doublure.exports.reopen import Outputs
from doublure.exports.verify import answers_of, verify
from doublure.nets.network import Network, freeze
from doublure.nets.quantized import float_twin, grids_as_called, is_quantized, packed_state

# In the order of the written list: the float forms first, as references for the others.
FILES = {
    "onnx": "student.onnx",
    "pt2": "student.pt2",
    "safetensors": "student.safetensors",
    "int8-onnx": "student.int8.onnx",
}
LIST = "exports.json"
_LABELLED_BATCH = 250
# Tolerance between two timings of the same file.
_GAIN = 1.05
# The reference of a quantized network's int8 form: simulated rounding itself costs time.
_PLAIN = "float32 ONNX without rounding"


def export_network(
    network: Network[Any],
    folder: Path,
    formats: Sequence[str],
    calibration: Iterable[Tensor] | None,
    probe: Float[Tensor, "batch channels height width"],
    *,
    labelled: EvaluationData | None = None,
    int8: Int8 | None = None,
    timing: Timing | None = None,
    tasks: tuple[Task, ...],
    loader: str,
) -> list[Exported]:
    """Write `network` into `folder` in every form of `formats`, with verification and a list.

    The first one in the list is a float form. If only int8-onnx is requested, it is the float32
    ONNX file behind it, which is not kept.

    Args:
        calibration: batches of images in [0, 1] for int8-onnx.
        probe: images in [0, 1] on which every file's outputs must match the network's.
        labelled: labelled data for the scores of every form.
        tasks: the tasks, one of which is the network's.
        loader: the module whose `load` opens a student's folder in a new process.

    Raises:
        ValueError: a form is unknown, or not possible for the network.
        VerificationError: the outputs of a file differ from the network's.
        RunFolderError: the folder cannot be written.
    """
    asked, task = _checked(formats, calibration), task_of(tasks, network.contract)
    timing = timing or Timing()
    expected = answers_of(network, probe)
    with _part_folder(folder) as part:
        for name in (LIST, *(FILES[form] for form in asked)):
            claim(folder / name)  # which is better refused now than after the work
        forms = _write_forms(network, part, asked, calibration, int8 or Int8(), tasks)
        rows = _judge(forms, network, probe, expected, labelled, timing, task, loader)
        rows = [row if row.form in asked else _not_kept(row) for row in rows]
        for form in forms:
            if form.name in asked:
                _move_in(form, folder)
        write_json(folder / LIST, [row.to_json() for row in rows])
    return rows


@dataclass(frozen=True, kw_only=True)
class _Form:
    """One form on disk, and its function in this process.

    Args:
        made_from: the float file without rounding behind an int8 file, if the network is quantized.
    """

    name: str
    path: Path
    weight_bytes: int
    answer: Answer
    quantize_nodes: int | None = None
    made_from: "_Form | None" = None


def _checked(formats: Sequence[str], calibration: Iterable[Tensor] | None) -> tuple[str, ...]:
    if not formats:
        raise ValueError(f"no export format given; known: {', '.join(FILES)}")
    asked = {one_of("export format", form, FILES) for form in formats}
    if "int8-onnx" in asked and calibration is None:
        raise ValueError("int8-onnx needs calibration images; give some, or export onnx")
    return tuple(form for form in FILES if form in asked)


@contextmanager
def _part_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder inside `folder`, gone again afterwards."""
    part = part_of(folder / "exports")
    try:
        make_folder(part.parent)
        for left in left_parts(folder / "exports"):
            shutil.rmtree(left)
        part.mkdir()
    except OSError as error:
        raise RunFolderError(f"cannot make {part}: {error.strerror}") from error
    try:
        yield part
    finally:
        shutil.rmtree(part)


def _write_forms(
    network: Network[Any],
    part: Path,
    asked: Sequence[str],
    calibration: Iterable[Tensor] | None,
    int8: Int8,
    tasks: tuple[Task, ...],
) -> list[_Form]:
    """Write every requested form, and the float32 ONNX file for int8."""
    forms = []
    program = functools.cache(functools.partial(trace_program, network))
    if {"onnx", "int8-onnx"} & set(asked):
        write_onnx(program(), describe(network), part / FILES["onnx"])
        forms.append(_onnx_form("onnx", part / FILES["onnx"]))
    if "pt2" in asked:
        write_program(program(), network, part / FILES["pt2"])
        answer = _inferring(program().module())
        tensors = network.body.state_dict().values()
        forms.append(_torch_form("pt2", part / FILES["pt2"], tensors, answer))
    if "safetensors" in asked:
        own = part / "weights"  # it is several files, one of which may be a .pt2
        own.mkdir()
        save(network, own, tasks=tasks)
        if not rebuilds(network.reference):  # the architecture cannot be rebuilt otherwise
            write_program(program(), network, own / FILES["pt2"])
        weights = own / FILES["safetensors"]
        tensors = packed_state(network.body).values()
        forms.append(_torch_form("safetensors", weights, tensors, on_cpu(network)))
    if "int8-onnx" in asked:
        assert calibration is not None
        path, plain = part / FILES["onnx"], None
        blank = network.contract.blank(1, torch.device("cpu"))
        grids = grids_as_called(freeze(network).to("cpu", torch.float32), blank)
        if grids:
            path = part / "twin.onnx"
            twin = Network(float_twin(network.body), network.contract, network.reference)
            write_onnx(trace_program(twin), describe(network), path)
            plain = _onnx_form("onnx", path)
        export_int8_onnx(path, part / FILES["int8-onnx"], calibration, int8, grids)
        int8_form = _onnx_form("int8-onnx", part / FILES["int8-onnx"])
        forms.append(replace(int8_form, made_from=plain))
    return forms


def _code_of(network: Network[Any]) -> str:
    """Return the file whose code builds the network, if there is one."""
    kind, _, target = network.reference.partition(":")
    return target.rpartition(":")[0] if kind == "file" else ""


def _onnx_form(name: str, path: Path) -> _Form:
    session = open_session(path, torch.get_num_threads())
    model = onnx.load(path)
    names = [output.name for output in session.get_outputs()]
    return _Form(
        name=name,
        path=path,
        weight_bytes=count_weight_bytes(model),
        answer=lambda images: _one_or_named(names, session.run(None, {INPUT: images.numpy()})),
        quantize_nodes=None if name == "onnx" else count_quantize_nodes(model),
    )


def _one_or_named(names: Sequence[str], outputs: Sequence[Any]) -> Any:
    """Return outputs in the network's form: one tensor, or a dict of them."""
    parts = dict(zip(names, map(torch.from_numpy, outputs), strict=True))
    return parts[OUTPUT] if tuple(parts) == (OUTPUT,) else parts


def _torch_form(name: str, path: Path, tensors: Iterable[Tensor], answer: Answer) -> _Form:
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return _Form(name=name, path=path, weight_bytes=size, answer=answer)


def _inferring(module: nn.Module) -> Answer:
    def answer(images: Tensor) -> Any:
        with torch.inference_mode():
            return module(images)

    return answer


def _judge(
    forms: Sequence[_Form],
    network: Network[Any],
    probe: Tensor,
    expected: Outputs,
    labelled: EvaluationData | None,
    timing: Timing,
    task: Task,
    loader: str,
) -> list[Exported]:
    """Verify every form, then measure all of them together."""
    code, rounds = _code_of(network), is_quantized(network)

    def agree(one: Outputs, other: Outputs) -> float:
        pair = (_one_or_named([*out], [*out.values()]) for out in (one, other))
        return task.agreement([tuple(pair)]).value

    compared = {
        form.name: verify(
            form.name,
            form.path,
            probe,
            expected,
            agree,
            code=code,
            loader=loader,
            rounds=rounds,
        )
        for form in forms
    }
    answers = {form.name: form.answer for form in forms}
    plain = next((form.made_from for form in forms if form.made_from is not None), None)
    if plain is not None:
        answers[_PLAIN] = plain.answer
    paces = time_forms(answers, probe, timing)
    rows = [
        Exported(
            form=form.name,
            path=form.path.name,
            bytes=form.path.stat().st_size,
            weight_bytes=form.weight_bytes,
            **asdict(paces[form.name]),
            max_difference=compared[form.name].max_difference,
            agreement=compared[form.name].agreement,
            quantize_nodes=form.quantize_nodes,
            **_scored(form.answer, labelled, task),
        )
        for form in forms
    ]
    held, name = rows[0], "float32 ONNX"
    if plain is not None:
        size = plain.path.stat().st_size
        held, name = replace(held, bytes=size, **asdict(paces[_PLAIN])), _PLAIN
    return [rows[0], *(held_against(row, held, name) for row in rows[1:])]


class _Answering(nn.Module):
    """A form as a network, so that its task can evaluate it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def forward(self, images: Tensor) -> Any:
        return self._answer(images)


def _scored(answer: Answer, labelled: EvaluationData | None, task: Task) -> dict[str, Any]:
    """Return what a form scores on labelled data: the accuracy, or the scores of its task."""
    if labelled is None:
        return {}
    found = task.evaluate(
        _Answering(answer), labelled, batch_size=_LABELLED_BATCH, device="cpu"
    ).to_json()
    return {name: found.get(name) for name in ("accuracy", "scores")}


def held_against(row: Exported, float32: Exported, name: str) -> Exported:
    """Add the gain of an int8 form over its float32 file to its note."""
    if row.quantize_nodes is None:
        return row
    size = row.bytes / float32.bytes
    alone = float32.latency_ms / row.latency_ms
    together = row.images_per_second / float32.images_per_second
    note = (
        f"{size:.2f} of the bytes of {name}, {alone:.2f} times its speed on one image, "
        f"{together:.2f} times in batches"
    )
    if size >= 1 or max(alone, together) < _GAIN:
        note = f"no gain on this machine: {note}"
    return replace(row, note=note)


def _not_kept(row: Exported) -> Exported:
    return replace(row, path=None, note="made on the way to int8-onnx, not kept")


def _move_in(form: _Form, folder: Path) -> None:
    """Move a form's files to their places, each atomically."""
    files = form.path.parent.iterdir() if form.name == "safetensors" else [form.path]
    names = sorted({file.name for file in files} - {OWN_LIST}, reverse=True)
    for file in (form.path.with_name(name) for name in names):  # student.json last
        try:
            claim(folder / file.name)
            file.replace(folder / file.name)
        except OSError as error:
            raise RunFolderError(
                f"cannot write {folder / file.name}: {error.strerror}; "
                "what was there before is intact"
            ) from error
