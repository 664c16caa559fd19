"""How does the front of `shrink` compare with its verbs by hand, and with tools people know?

The public ResNet-56 on CIFAR-10 (JPEG). `shrink` runs with a budget; what processor time its
candidates took, each with its part of the shared images, is on average what every other way gets,
on one thread. Accuracy is that of the exported file on the half of the test split that is for
reports; no choice was made by it.

    shrink              every file of its table
    prune               by its default recipe, for the same shares of filters
    distill             ResNet-20 and ResNet-32 by the default recipe, each with images of its own
    quantize            eight bits, as int8 ONNX
    torch-pruning       its dependency graph and magnitudes (MIT; left out with a message where it
                        is not installed), then taught by our recipe on the images of `shrink`; it
                        cannot follow padded shortcuts, so only what lies inside blocks is pruned,
                        down to the parameters of our pruned networks
    onnxruntime         its own static quantization with its defaults, on our calibration images

    DOUBLURE_DATA=... python benchmarks/shrink.py --budget 1200 --seeds 0 --work FOLDER
"""

import argparse
import copy
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifar10 import public_teacher
from doublure.compress.pruning import Pruning
from doublure.core.protocols import Source
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, batches
from doublure.engine.description import INPUT
from doublure.engine.method import MethodInputs
from doublure.engine.model_transform import apply_transform
from doublure.engine.planning import within_budget
from doublure.engine.processes import process_group
from doublure.engine.recipe import ModelTransform, Recipe
from doublure.engine.stage_opening import open_stage, stage_rng
from doublure.exports.exporting import FILES, export_network
from doublure.exports.measure import Timing, count_flops
from doublure.exports.onnx import open_session
from doublure.nets.network import Network, count_parameters
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipe_file import replace_keys
from doublure.recipes import METHODS, smaller
from doublure.sources.matched import Matched
from doublure.sources.shaders import Shaders
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.auto import network_facts
from doublure.verbs import candidates, comparing
from doublure.verbs.quantize import quantize
from doublure.verbs.shrink import shrink
from experiments import Table, clock
from main_job import halves

TEACHER = "resnet56"
TARGET = "0.3"
FORMS = ("onnx", "int8-onnx")
SHARES = (0.3, 0.5, 0.7)
STUDENTS = ("resnet20", "resnet32")
_BRIEF = Timing(batch_size=16, rounds=3, seconds=0.2)
_SECONDS = "seconds.json"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every arm is given."""

    reference: NetworkRef
    teacher: Network
    report: Dataset
    budget: float
    seed: int
    work: Path
    measurer: comparing.Measurer

    @property
    def images(self) -> Source:
        """The images that `shrink` made."""
        folder = self.work / "shrink" / "checkpoint" / "images"
        return Surrogate(data=str(folder)) if folder.exists() else Matched(source=Shaders())

    @property
    def calibration(self) -> list[Tensor]:
        """Batches of those images."""
        return comparing.draw(self.images, self.teacher, 256, child_seed(self.seed, "calibration"))

    @property
    def seconds(self) -> float:
        """Processor time of a candidate of `shrink` that learned, on average."""
        told = json.loads((self.work / _SECONDS).read_text(encoding="utf-8"))
        learned = [value for name, value in told.items() if name not in ("images", "int8")]
        return (sum(learned) + told.get("images", 0.0)) / len(learned)


def scores(path: Path, setting: Setting) -> dict[str, float]:
    """Return accuracy of an ONNX file, and its mean agreement on the sets of `shrink`."""
    session, correct = open_session(path, torch.get_num_threads()), 0

    def classes(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {INPUT: images.numpy()})
        return torch.from_numpy(logits).argmax(1)

    for images, place in batches(setting.report, 250):
        correct += int((classes(images.float() / 255) == setting.report.labels[place]).sum())
    same = [
        (classes(asked.images) == asked.named).float().mean().item()
        for asked in setting.measurer.sets.values()
    ]
    return {"accuracy": correct / len(setting.report), "agreement": sum(same) / len(same)}


def rows_of(
    name: str, network: Network, setting: Setting, *, seconds: float, steps: int
) -> list[dict[str, Any]]:
    """Export a network and return a row for each of its files."""
    with tempfile.TemporaryDirectory() as folder:
        shown = setting.calibration
        made = export_network(network, Path(folder), FORMS, shown, shown[0], timing=_BRIEF)
        return [
            {
                "name": name,
                "form": form.form,
                "bytes": form.bytes,
                "parameters": count_parameters(network),
                "macs": count_flops(network) // 2,
                **scores(Path(folder) / FILES[form.form], setting),
                "seconds": seconds,
                "steps": steps,
            }
            for form in made
        ]


def taught(name: str, recipe: Recipe, student: Network, setting: Setting) -> list[dict[str, Any]]:
    """Return the rows of a student after the processor time of a candidate of `shrink`."""
    began, student = clock(), copy.deepcopy(student).requires_grad_()
    with process_group(cpu=True) as alone:
        recipe = within_budget(recipe, setting.teacher, student, setting.seconds, alone, clock)
    stage, rng = recipe.stages[0], stage_rng(recipe, 0)
    student = apply_transform(stage, setting.teacher, student, rng)
    with tempfile.TemporaryDirectory() as scratch:
        open_stage(stage, setting.teacher, student, rng, scratch=Path(scratch))()
    seconds = clock() - began
    return rows_of(name, student.eval(), setting, seconds=seconds, steps=stage.fit.steps)


def by_shrink(setting: Setting) -> Iterator[dict[str, Any]]:
    """Run the verb, noting the processor time of each candidate."""
    told = setting.work / _SECONDS
    seconds = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}

    def timed(made: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            began = clock()
            result = made(*given)
            name = name_of(*given)
            seconds[name] = seconds.get(name, 0.0) + clock() - began
            told.write_text(json.dumps(seconds), encoding="utf-8")
            return result

        return call

    make, images_of = candidates.make, candidates.images_of
    candidates.make = timed(make, lambda candidate, *_: candidate.name)
    candidates.images_of = timed(images_of, lambda *_: "images")
    try:
        summary = shrink(
            setting.reference,
            target=TARGET,
            budget=setting.budget,
            out=setting.work / "shrink",
            seed=setting.seed,
            resume=True,
            say=print,
        )
    finally:
        candidates.make, candidates.images_of = make, images_of
    for row in (summary["teacher"], *summary["rows"]):
        ran = setting.work / "shrink" / "candidates" / row["candidate"] / "summary.json"
        steps = json.loads(ran.read_text(encoding="utf-8"))["steps"] if ran.exists() else 0
        yield {
            "name": row["candidate"],
            **{key: row[key] for key in ("form", "bytes", "parameters", "macs", "latency_ms")},
            **scores(setting.work / "shrink" / row["path"], setting),
            "recommended": row["path"] == summary["recommendation"]["path"],
            "seconds": seconds.get(row["candidate"], 0.0),
            "steps": steps,
        }


def by_prune(setting: Setting) -> Iterator[dict[str, Any]]:
    """Prune and recover as the verb does by default."""
    for share in SHARES:
        change = ModelTransform(transform=Pruning(ratio=share, repair=True), source=Shaders())
        contract = setting.teacher.contract
        recipe = smaller("prune", setting.reference, contract, [change], steps=2000)
        yield from taught(f"pruned-{100 * share:.0f}", recipe, setting.teacher, setting)


def by_distill(setting: Setting) -> Iterator[dict[str, Any]]:
    """Distil shallower networks by the default recipe."""
    for name in STUDENTS:
        reference = NetworkRef(ref=f"builtin/{name}")
        rng = from_seed(child_seed(setting.seed, "student"))
        student = load(reference, like=setting.teacher.contract, rng=rng)
        metrics = network_facts(setting.teacher, student, given_weights=False)
        given = MethodInputs(contract=setting.teacher.contract, metrics=metrics)
        recipe = METHODS["auto"].recipe(setting.reference, reference, given, seed=setting.seed)
        yield from taught(name, recipe, student, setting)


def by_quantize(setting: Setting) -> Iterator[dict[str, Any]]:
    """Round to eight bits as the verb does by default, and export the integers."""
    out, began = setting.work / "quantized", clock()
    quantize(setting.reference, setting.images, out=out, audit=False, overwrite=out.exists())
    rows = rows_of("int8", load(str(out)), setting, seconds=clock() - began, steps=0)
    yield from (row for row in rows if row["form"] == "int8-onnx")


def by_torch_pruning(setting: Setting) -> Iterator[dict[str, Any]]:
    """Prune inside blocks by its dependency graph, and teach by our recipe on the same images."""
    pruning = importlib.import_module("torch_pruning")
    contract, whole = setting.teacher.contract, count_parameters(setting.teacher)
    summary = json.loads((setting.work / "shrink" / "summary.json").read_text(encoding="utf-8"))
    for row in summary["rows"]:
        if not row["candidate"].startswith("pruned") or row["form"] != "onnx":
            continue
        body = copy.deepcopy(setting.teacher.body)
        kept = [body.conv1, body.linear, *(m.conv2 for m in body.modules() if hasattr(m, "conv2"))]
        pruning.pruner.BasePruner(
            body,
            torch.rand(2, contract.channels, *contract.size),
            importance=pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=1 - row["parameters"] / whole,
            global_pruning=True,
            ignored_layers=kept,
        ).step()
        student, named = Network(body, contract), NetworkRef(ref="python:CifarResNet")
        metrics = network_facts(setting.teacher, student, given_weights=True)
        given = MethodInputs(contract=contract, base=setting.images, metrics=metrics)
        recipe = METHODS["auto"].recipe(setting.reference, named, given, seed=setting.seed)
        recipe = replace_keys(recipe, candidates.NEAR)
        yield from taught(row["candidate"], recipe, student, setting)


def by_onnxruntime(setting: Setting) -> Iterator[dict[str, Any]]:
    """Quantize the teacher's ONNX file by the runtime's own defaults."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, shown: list[Tensor]) -> None:
            self._left = iter(shown)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {INPUT: batch.numpy()}

    source = setting.work / "shrink" / "teacher" / FILES["onnx"]
    with tempfile.TemporaryDirectory() as folder:
        began, path = clock(), Path(folder) / "int8.onnx"
        quantize_static(source, path, Reader(setting.calibration))
        yield {
            "name": "int8",
            "form": "int8-onnx",
            "bytes": path.stat().st_size,
            "parameters": count_parameters(setting.teacher),
            "macs": count_flops(setting.teacher) // 2,
            **scores(path, setting),
            "seconds": clock() - began,
            "steps": 0,
        }


ARMS: dict[str, Callable[[Setting], Iterator[dict[str, Any]]]] = {
    "shrink": by_shrink,
    "prune": by_prune,
    "distill": by_distill,
    "quantize": by_quantize,
    "torch-pruning": by_torch_pruning,
    "onnxruntime": by_onnxruntime,
}


def run(arm: str, setting: Setting, table: Table) -> None:
    """Add the rows of an arm, unless they are all there."""
    if arm == "torch-pruning" and importlib.util.find_spec("torch_pruning") is None:
        print("torch-pruning is not installed; pip install torch-pruning adds it (MIT)")
        return
    key = {"arm": arm, "seed": setting.seed}
    if table.has(**key, last=True):
        return
    table.drop(**key)
    made = list(ARMS[arm](setting))
    for i, row in enumerate(made):
        at = f"{row['name']}, {'int8' if row['form'] == 'int8-onnx' else 'float32'}"
        table.add({**key, "at": at, **row, "last": i == len(made) - 1}, ("at", "arm"))
        print(f"{arm} {at}: {row['accuracy']:.2%}, {row['bytes']:,} bytes", flush=True)


def close(table: Table) -> None:
    """Print every arm by size, or that it is missing."""
    for arm in ARMS:
        rows = [row for row in table.rows if row["arm"] == arm]
        if not rows:
            print(f"{arm:16}not run")
        for row in sorted(rows, key=lambda row: row["bytes"]):
            print(
                f"{arm:16}{row['at']:32}{row['bytes']:>12,} bytes {row['accuracy']:8.2%} "
                f"{row['seconds']:6.0f} s  seed {row['seed']}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=float, default=1200.0, help="seconds of shrink's wall")
    parser.add_argument("--work", type=Path, required=True, help="where networks lie, to go on")
    parser.add_argument("--name", default="shrink", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    told = {"teacher": TEACHER, "target": TARGET, "budget": given.budget}
    table = Table(given.name, __doc__.splitlines()[0], told)
    reference, teacher = public_teacher(TEACHER)
    teacher.eval()
    for seed in given.seeds if given.arms else ():
        work = given.work / f"seed{seed}"
        work.mkdir(parents=True, exist_ok=True)
        setting = Setting(
            reference=reference,
            teacher=teacher,
            report=halves(teacher)[1],
            budget=given.budget,
            seed=seed,
            work=work,
            measurer=comparing.Measurer.open(teacher, work, 256, None, None, seed),
        )
        for arm in given.arms:
            run(arm, setting, table)
    close(table)


if __name__ == "__main__":
    main()
