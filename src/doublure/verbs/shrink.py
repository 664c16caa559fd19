"""`shrink`: several smaller networks, their comparison, and a recommendation.

The folder has `shrink.json` (arguments and plan, written first), a RUN for each trained candidate
in `candidates/NAME`, with its exported files and `measured.json`, and at the end `summary.json` and
`report.html`. It resumes per candidate, and an interrupted candidate resumes like a run of its own
verb.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter
from torch import nn

from doublure.compress import shrinking_plan as planning
from doublure.compress.shrinking_choice import Row, front, recommend, takes
from doublure.compress.shrinking_plan import Candidate, Costs, LeftOut, Plan, Target
from doublure.core.protocols import Source
from doublure.data.datasets import Dataset, open_data
from doublure.data.own_files import RunFolderError
from doublure.engine.run_folder import SUMMARY, RunFolder, write_json
from doublure.engine.run_options import find_device
from doublure.nets.network import Network, count_parameters
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.reports.shrinking import write_shrinking_report
from doublure.verbs import candidates as making
from doublure.verbs import comparing
from doublure.verbs.candidates import Bench
from doublure.verbs.comparing import SHADERS, Measurer
from doublure.verbs.naming import network_named, open_network, permitted, source_named

RECORD, MEASURED, TEACHER = "shrink.json", "measured.json", "teacher"
FORMS = ("onnx", "int8-onnx")
# Images per step, unless such steps would take more than this share of the budget.
_BATCH, _SMALL_BATCH, _STEPS_SHARE = 128, 32, 0.25
# Images of each transfer set for the agreement with the teacher, and the budget's share.
_FEWEST, _MOST, _ASKED_SHARE = 64, 1024, 0.02
# The budget's share for labelled images, the maximum number of files, and their speed relative to
# torch.
_LABELLED_SHARE, _FILES, _FASTER = 0.15, 16, 3.0

# Fifteen optimisation steps of three passes each, in training steps of six passes each.
_IMAGE_STEPS = 7.5

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Batch size and amount of measurement that fit the budget.

    Args:
        asked: number of images of each transfer set.
        labelled: number of labelled images, None without any.
        answer: seconds of the teacher per image.
        image: seconds to optimise an image.
        step: seconds of a training step.
    """

    asked: int
    labelled: int | None
    batch_size: int
    answer: float
    image: float
    step: float


def shrink(
    teacher: str | NetworkRef | nn.Module,
    *,
    target: str | float,
    budget: float,
    out: str | Path,
    student: str | None = None,
    transfer: str | Source | None = None,
    eval: str | None = None,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
    skip_bad: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_code: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> dict[str, Any]:
    """Create smaller networks from `teacher`, compare them, and return the summary in `out`.

    Args:
        teacher: a REF or a network; weights, mean, std, size and classes describe it.
        target: limit of the student: a share of the teacher's bytes ("0.3"), a size ("2MB") or a
            latency of one image on this machine ("5ms").
        budget: seconds for all of it, 30 at least.
        student: REF of an additional student.
        transfer: transfer set in place of the verbs' own.
        eval: labelled evaluation data; never affects a student.
        skip_bad: skip unreadable image files instead of raising.
        batch_size: images per step; 128, or 32 if those would take too long.
        resume: resume the work in the folder, or start it.
        overwrite: replace the content of the folder.
        allow_code: files whose code may run if a run's folder needs it.
        say: callback for log messages.
        watch: callback for the number of steps and each line of a candidate's metrics log.
    """
    began = time.perf_counter()
    wanted = planning.parse_target(target)
    planning.check_budget(budget)
    described: dict[str, Any] = {
        "weights": weights,
        "mean": mean,
        "std": std,
        "size": size,
        "classes": classes,
    }
    reference = network_named(teacher, **described)
    asked = {"teacher": asdict(reference), "target": asdict(wanted), "budget": budget}
    asked |= {"student": student, "transfer": transfer if transfer is None else str(transfer)}
    asked |= {"eval": eval, "seed": seed}
    with contextlib.closing(RunFolder(Path(out), record=RECORD)) as folder:
        inputs = [reference.ref, weights, student, transfer, eval]
        record = _record(folder, asked, inputs, resume=resume, overwrite=overwrite)
        network = open_network(
            teacher, verb="shrink", say=say, allow_code=allow_code, **described
        ).eval()
        labelled = None
        if eval is not None:
            contract = network.contract
            labelled = open_data(eval, contract, split="test", labels=True, skip_bad=skip_bad)
        if not record:
            folder.begin(overwrite=overwrite)
            write_json(folder.file(RECORD), {"asked": asked})
        say = folder.logging(say)
        scale = record.get("scale")
        scale = _read(Scale, scale) if scale else _scale(network, budget, labelled, device)
        allowed = permitted(teacher, student, allow_code=allow_code)
        bench = Bench(
            teacher=teacher if isinstance(teacher, nn.Module) else reference,
            network=network,
            root=folder.path,
            transfer=None
            if transfer is None
            else source_named(transfer, contract=network.contract),
            batch_size=batch_size or scale.batch_size,
            options={
                "seed": seed,
                "device": device or "auto",
                "allow_code": allowed,
                "say": say,
                "watch": watch,
            },
        )
        measurer = Measurer.open(network, folder.path, scale.asked, labelled, scale.labelled, seed)
        if "plan" in record:
            plan, row = _read(Plan, record["plan"]), _read(Row, record["teacher"])
            clock = _Clock(began, plan.costs.spent)
        else:
            clock = _Clock(began, 0.0)
            plan, row = _plan(bench, measurer, wanted, budget, student, scale, clock)
            record = {"asked": asked, "scale": asdict(scale), "plan": asdict(plan)}
            write_json(folder.file(RECORD), record | {"teacher": asdict(row)})
        for line in planning.describe(plan):
            say(line)
        made = _make_all(plan, bench, measurer, clock)
        summary = _summarize(made, row, plan, bench, measurer, clock)
        folder.finish()
        return summary


class _Clock:
    """Seconds since the start, including those of an earlier process."""

    def __init__(self, began: float, before: float) -> None:
        self._began, self._before = began, before

    def __call__(self) -> float:
        return self._before + time.perf_counter() - self._began

    def add(self, seconds: float) -> None:
        """Add the seconds of an earlier process."""
        self._before += seconds


@dataclass(frozen=True, kw_only=True)
class _Made:
    """The files of all candidates, and the failed candidates with the reason."""

    rows: list[Row]
    failed: list[LeftOut]


def _record(
    folder: RunFolder,
    asked: Mapping[str, Any],
    inputs: Sequence[Any],
    *,
    resume: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Return what an earlier process planned; nothing if there is none to go on with."""
    named = [name for name in inputs if isinstance(name, str)]
    if not folder.check(resume=resume, overwrite=overwrite, inputs=named):
        return {}
    record: dict[str, Any] = folder.read_json(RECORD)
    before, now = record["asked"], json.loads(json.dumps(asked))
    if keys := [name for name, value in now.items() if before.get(name) != value]:
        raise RunFolderError(
            f"--resume, but the arguments differ from those in the folder in {', '.join(keys)}; "
            f"remove the option, or use another --out"
        )
    return record


def _scale(network: Network, budget: float, labelled: Dataset | None, device: str | None) -> Scale:
    """Return the amount of measurement, from the teacher's time on this machine."""
    answer = comparing.seconds_an_answer(network)
    step = comparing.seconds_a_step(network, find_device(device or "auto"))
    long = planning.FEWEST_STEPS * _BATCH * step > _STEPS_SHARE * budget
    batch_size = _SMALL_BATCH if long else _BATCH
    asked = int(_ASKED_SHARE * budget / (len(comparing.SETS) * answer))
    fitting = int(_LABELLED_SHARE * budget * _FASTER / (_FILES * answer))
    return Scale(
        asked=min(_MOST, max(_FEWEST, asked)),
        labelled=None if labelled is None else min(len(labelled), max(_FEWEST, fitting)),
        batch_size=batch_size,
        answer=answer,
        image=_IMAGE_STEPS * step,
        step=batch_size * step,
    )


def _plan(
    bench: Bench,
    measurer: Measurer,
    target: Target,
    budget: float,
    student: str | None,
    scale: Scale,
    clock: _Clock,
) -> tuple[Plan, Row]:
    """Return the plan, and the row of the teacher, which is exported and measured."""
    network, began = bench.network, clock()
    rows = measurer.rows(network, TEACHER, bench.root / TEACHER, ("onnx",), SHADERS)
    (row,) = measurer.with_latencies(rows)
    exported = clock() - began
    whole = count_parameters(network)
    why = making.why_not_pruned(network)
    siblings = making.smaller_siblings(network)
    left_out = [LeftOut(name="pruned", why=why)] if why else []
    if not siblings:
        of = network.reference or type(network.body).__name__
        left_out.append(LeftOut(name="shallower", why=f"no shallower relative of {of} is known"))
    named = None
    if student is not None:
        allowed = bench.options["allow_code"]
        opened = load(student, like=network.contract, allow_code=allowed)
        named = student, count_parameters(opened) / whole
    known = planning.known_candidates(siblings, prunes=not why, student=named)
    # A candidate has two forms, each checked in a separate process.
    costs = Costs(
        spent=clock(),
        answer=scale.answer,
        image=scale.image,
        step=scale.step,
        export=2 * exported,
    )
    plan = planning.plan_candidates(
        known,
        target,
        budget,
        costs,
        whole=row.bytes,
        milliseconds=row.latency_ms,
        left_out=left_out,
        inverts=bench.transfer is None and making.inverts(network),
    )
    return plan, row


def _make_all(plan: Plan, bench: Bench, measurer: Measurer, clock: _Clock) -> _Made:
    """Create the missing candidates one after the other, and return all files."""
    say = bench.options["say"]
    rows, failed, done = list[Row](), list[LeftOut](), dict[str, float]()
    for candidate in plan.candidates:
        measured = bench.folder(candidate.name) / MEASURED
        if measured.exists():
            told = json.loads(measured.read_text(encoding="utf-8"))
            rows += [_read(Row, row) for row in told["rows"]]
            done[candidate.name] = told["seconds"]
    clock.add(sum(done.values()) + (plan.image_seconds if done else 0.0))
    ahead = [candidate for candidate in plan.candidates if candidate.name not in done]
    images = making.images_of(plan, bench) if ahead else None
    for candidate in ahead:
        seconds = planning.seconds_for(plan, candidate.name, done, clock())
        say(f"{candidate.name}: {seconds:.0f} s")
        began = clock()
        try:
            made = _make(candidate, seconds, images, plan, bench, measurer)
        except RunFolderError:
            raise  # an existing folder or a full disk is not an error of the candidate
        except (ValueError, ArithmeticError, RuntimeError) as error:
            why = " ".join(str(error).split())
            say(f"{candidate.name} could not be made: {why}")
            failed.append(LeftOut(name=candidate.name, why=why))
            made = []
        done[candidate.name] = clock() - began
        if made:
            told = {"seconds": done[candidate.name], "rows": [asdict(row) for row in made]}
            write_json(bench.folder(candidate.name) / MEASURED, told)
            rows += made
    return _Made(rows=rows, failed=failed)


def _make(
    candidate: Candidate,
    seconds: float,
    images: Source | None,
    plan: Plan,
    bench: Bench,
    measurer: Measurer,
) -> list[Row]:
    """Create one candidate and return its measured files."""
    learning = seconds - planning.closing_seconds(plan.costs)
    if candidate.kind != "int8" and learning <= 0:
        raise ValueError(f"of the budget {seconds:.0f}s are left for it, too few to learn anything")
    network = making.make(candidate, learning, images, bench)
    forms = ("int8-onnx",) if candidate.kind == "int8" else FORMS
    return measurer.rows(
        network, candidate.name, bench.folder(candidate.name), forms, images or SHADERS
    )


def _summarize(
    made: _Made, teacher: Row, plan: Plan, bench: Bench, measurer: Measurer, clock: _Clock
) -> dict[str, Any]:
    """Time all files together, choose one, and write the results."""
    teacher, *rows = measurer.with_latencies([teacher, *made.rows])
    target = plan.target
    chosen = recommend(rows, target, teacher)
    at_front = {row.path for row in front(rows, target, teacher)}
    reference = bench.teacher.ref if isinstance(bench.teacher, NetworkRef) else ""
    summary = {
        "verb": "shrink",
        "teacher_reference": reference or type(bench.network.body).__name__,
        "target": asdict(target),
        "teacher": asdict(teacher),
        "rows": [
            asdict(row) | {"takes": takes(row, target, teacher), "front": row.path in at_front}
            for row in rows
        ],
        "recommendation": asdict(chosen),
        "left_out": [asdict(item) for item in plan.left_out],
        "failed": [asdict(item) for item in made.failed],
        "agreement_images": measurer.count,
        "budget": plan.budget,
        "seconds": clock(),
        "seed": bench.options["seed"],
    }
    write_json(bench.root / SUMMARY, summary)
    write_shrinking_report(bench.root)
    return summary


def _read(of: type[Part], value: Any) -> Part:
    """Return the part of a record from before it was written."""
    return TypeAdapter(of).validate_python(value)
