"""What does a segmentation student learn from scenes without labels, from other images, from none?

CamVid (240x180, 11 classes). One teacher, scene-unet-16, trained from scratch on the labelled
training split; students scene-unet-6 from the same weights by seed, of equal steps, or of equal
processor time (--seconds). Figures are of the last step, on the whole test split and on its one
drive that no training image is from (Seq05VD). Nothing was chosen on the test split: choices were
made on val.

    DOUBLURE_DATA=... python benchmarks/segmentation.py --seeds 0 1 2
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from doublure.core.protocols import Source
from doublure.core.seeding import child_seed, from_seed
from doublure.data.scenes import SceneData, open_scenes
from doublure.engine.method import MethodInputs
from doublure.engine.recipe import Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipes import methods
from doublure.sources.dfad import DFAD
from doublure.sources.noise import Noise
from doublure.sources.scenes import Scenes
from doublure.sources.sized import Sized
from doublure.sources.surrogate import Surrogate
from doublure.tasks.segmentation.evaluation import answers, evaluate_scenes
from doublure.tasks.segmentation.scores import agreement
from doublure.verbs.train import train
from experiments import Table, clock, print_table
from real_data import cifar10_folder, data_folder, scratch_folder, unpacked

TEACHER, STUDENT = "builtin/scene-unet-16", "builtin/scene-unet-6"
NAMES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "cyclist"),
)
REAL = "scenes without labels"
UNSEEN = "Seq05VD"
TRAINED, TAUGHT = 3000, 500
KEYS = ("at", "arm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", help="some of the arms only")
    parser.add_argument("--steps", type=int, default=TAUGHT, help="of a student")
    parser.add_argument("--seconds", type=float, help="of processor time, in place of steps")
    parser.add_argument("--split", default="test", help="val to choose by")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = camvid_folder()
    told = {"pair": f"{TEACHER} -> {STUDENT}", "teacher_steps": TRAINED, "batch_size": 10}
    name = "segmentation" if given.split == "test" else f"segmentation_{given.split}"
    table = Table(name, __doc__.splitlines()[0], told)
    out = teacher_folder(folder)
    teacher = load(str(out))
    test = open_scenes(
        f"{folder / given.split}:ignore=11", teacher.contract, split="test", labels=True
    )
    seconds = json.loads((out / "seconds.json").read_text())["seconds"]
    add_teacher(table, teacher, test, seconds)
    known = arms(teacher, folder)
    at = f"{given.seconds:g} seconds" if given.seconds else f"{given.steps} steps"
    for seed in given.seeds:
        for arm in given.arms or known:
            if not table.has(at=at, arm=arm, seed=seed):
                row = taught(known[arm](), teacher, test, seed, given.steps, given.seconds)
                table.add({"at": at, "arm": arm, "seed": seed, **row}, KEYS)
                print(f"{at} {arm} seed {seed}: mIoU {row['accuracy']:.3f}", flush=True)
    print_table(json.loads(table.path.read_text())["summary"])


def camvid_folder() -> Path:
    """Return CamVid, with the names of its classes."""
    archive = data_folder() / "camvid-240x180.tar.xz"
    folder = unpacked(archive, scratch_folder() / "camvid")
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return folder


def teacher_folder(folder: Path) -> Path:
    """Return the run folder of the teacher, which is trained where it is not there yet."""
    out = scratch_folder() / f"segmentation-teacher-{TRAINED}"
    if not (out / "seconds.json").exists():
        began = clock()
        train(TEACHER, f"{folder}:ignore=11", out=out, steps=TRAINED, resume=True)
        (out / "seconds.json").write_text(json.dumps({"seconds": clock() - began}))
    return out


def arms(teacher: Network, folder: Path) -> dict[str, Callable[[], Stage]]:
    """Return what makes the stage of each arm, by its name."""

    def stage(method: str, base: Source | None = None) -> Stage:
        given = MethodInputs(contract=teacher.contract, task="segmentation", base=base)
        reference = NetworkRef(ref=TEACHER)
        return methods("segmentation")[method].recipe(reference, reference, given).stages[0]

    def game(loss: str) -> Stage:
        made = stage("dfad")
        assert isinstance(made.source, Sized)
        assert isinstance(made.source.source, DFAD)
        played = replace(made.source.source, loss=loss)
        return replace(made, source=replace(made.source, source=played))

    other = Surrogate(data=str(cifar10_folder() / "test"), held_out=0.0)
    return {
        REAL: lambda: stage("auto", Scenes(data=str(folder / "train" / "images"), held_out=0.0)),
        "dfad, linear": lambda: game("linear"),
        "noise": lambda: stage("auto", Noise()),
        "dfad, logarithm": lambda: game("log"),
        "shaders": lambda: stage("shader-kd"),
        "other images (CIFAR-10)": lambda: stage("auto", other),
    }


def taught(
    stage: Stage, teacher: Network, test: SceneData, seed: int, steps: int, seconds: float | None
) -> dict[str, Any]:
    """Return the row of one student: its scores, its agreement with the teacher, and its cost."""
    began = clock()
    like = teacher.contract
    student = load(STUDENT, like=like, rng=from_seed(child_seed(seed, "student")))
    stage = replace(stage, fit=replace(stage.fit, steps=steps))
    rng = from_seed(child_seed(seed, "stage", 0))
    if seconds is not None:
        stage = replace(stage, fit=replace(stage.fit, steps=steps_in(seconds, stage, teacher, rng)))
        began = clock()
    with tempfile.TemporaryDirectory() as scratch:
        open_stage(stage, teacher, student, rng, scratch=Path(scratch))()
    spent = clock() - began
    row = {"steps": stage.fit.steps, "seconds": spent, **scores(student, test)}
    return row | {"agreement": agreed(student, teacher, test)}


def steps_in(seconds: float, stage: Stage, teacher: Network, rng: torch.Generator) -> int:
    """Return how many steps fit into processor time, by 20 steps of a student of its own."""
    student = load(STUDENT, like=teacher.contract, rng=from_seed(0))
    trial = replace(stage, fit=replace(stage.fit, steps=20))
    with tempfile.TemporaryDirectory() as scratch:
        train_it = open_stage(trial, teacher, student, rng, scratch=Path(scratch))
        began = clock()
        train_it()
    return int(20 * seconds / (clock() - began))


def add_teacher(table: Table, teacher: Network, test: SceneData, seconds: float) -> None:
    """Add the teacher's own row, once."""
    at = f"{TRAINED} steps"
    if not table.has(at=at, arm="teacher"):
        row = {"steps": TRAINED, "seconds": seconds, **scores(teacher, test), "agreement": 1.0}
        table.add({"at": at, "arm": "teacher", "seed": 0, **row}, KEYS)


def scores(network: Network, test: SceneData) -> dict[str, Any]:
    """Return how a network segments the test images, and those of the drive never seen."""
    whole = evaluate_scenes(network, test)
    unseen = [i for i, path in enumerate(test.paths) if path.name.startswith(UNSEEN)]
    found: dict[str, Any] = {"unseen": None}
    if unseen:
        found["unseen"] = evaluate_scenes(network, test.part(unseen)).scores["mean_iou"].value
    return found | {
        "accuracy": whole.scores["mean_iou"].value,
        "pixel_accuracy": whole.scores["pixel_accuracy"].value,
        "per_class": {name: score.iou for name, score in whole.per_class.items()},
    }


def agreed(student: Network, teacher: Network, test: SceneData) -> float:
    """Return the share of the test pixels on which both name the same class."""
    cpu = torch.device("cpu")
    asked = (answers(freeze(network), test, cpu) for network in (student, teacher))
    return agreement((one, other) for (one, _), (other, _) in zip(*asked, strict=True)).value


if __name__ == "__main__":
    main()
