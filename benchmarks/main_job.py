"""What does the default recipe, `auto`, bring a student without data, and what is each part worth?

Public CIFAR-10 networks teach smaller ones in a given time of one processor thread: preparation,
images, the teacher's answers and the training count, judging does not. Every arm is the same
command with a part left out, a published recipe as it is, or real images without labels, shown to a
student that begins in the same way: the bound. The last step is the student.

The test split is divided: of each class the first half is for the report, the second is for
choices. Settings were chosen by looking at the second half only.

Each run also writes to results/label_free.jsonl what can be measured without labels, beside the
accuracy: agreement and confidence on several sets of images.

    DOUBLURE_DATA=... python benchmarks/main_job.py --seconds 720 --seeds 0 --arms auto bound
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifar10 import public_teacher
from doublure.core.protocols import InputContract, Source, StreamContext
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, Part, open_data
from doublure.engine.fit import FitSettings
from doublure.engine.method import MethodInputs
from doublure.engine.pacing import Pacer
from doublure.engine.planning import within_budget
from doublure.engine.processes import process_group
from doublure.engine.recipe import Recipe
from doublure.engine.stage_opening import open_stage, stage_rng
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipe_file import replace_keys
from doublure.recipes import METHODS
from doublure.sources.few import Few
from doublure.sources.matched import Matched
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders
from doublure.sources.short_inversion import ShortInversion
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.auto import PARTS, network_facts
from doublure.tasks.classification.evaluation import evaluate
from experiments import RESULTS, Table, clock, interval, pair, provenance
from methods import NEAR
from real_data import cifar10_folder, scratch_folder

PAIRS = {
    "resnet20 -> resnet8": "main_job",
    "resnet56 -> resnet20": "main_job_resnet56",
    "resnet20 -> mobilenetv2-0.5": "main_job_mobilenet",
}
LOOKS = 4
# Images on which label-free measurements are taken, each set the same for all runs.
_MEASURED_ON = 512
_MEASURING_SEED = 1_000_003
# Adaptive DeepInversion at minutes of a processor: see sources_cifar10.py for the reasons.
_INVERSION = {
    "optimisation.iterations": "60",
    "optimisation.learning_rate": "0.1",
    "features": "1",
    "replay.first": "2",
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row: a method, what it goes without, and what is shown in place of its images.

    Args:
        few: real images without labels beside the method's own, all of which teach.
    """

    method: str = "auto"
    without: tuple[str, ...] = ()
    base: Callable[[], Source] | None = None
    few: int = 0
    assignments: tuple[tuple[str, str], ...] = ()


def real() -> Source:
    """Return CIFAR-10's training images, without their labels."""
    return Surrogate(data=str(cifar10_folder()))


def few_images(count: int, seed: int, contract: InputContract) -> Few:
    """Return some of CIFAR-10's training images, other ones for every seed."""
    path = scratch_folder() / f"few-{count}-{seed}.npz"
    if not path.exists():
        train = open_data(cifar10_folder(), contract, split="train", labels=False)
        chosen = torch.randperm(len(train), generator=from_seed(child_seed(seed, "few")))[:count]
        np.savez(path, x=train.images(chosen).permute(0, 2, 3, 1).numpy())
    return Few(data=str(path), held_out=0.0)


ARMS = {
    "auto": Arm(),
    "auto + few 50": Arm(few=50),
    "auto + few 500": Arm(few=500),
    **{f"auto - {part}": Arm(without=(part,)) for part in PARTS},
    "bound: real images": Arm(base=real),
    "real images, from scratch": Arm(base=real, without=("inherit",)),
    "shader-kd": Arm(method="shader-kd"),
    "bare shaders": Arm(method="shader-kd", without=("augmentation", "mixup", "attack")),
    "fast-meta": Arm(method="fast-meta", assignments=(("generator.width", "32"),)),
    "adaptive-deep-inversion": Arm(
        method="adaptive-deep-inversion", assignments=tuple(_INVERSION.items())
    ),
}


def recipe_of(
    arm: Arm, teacher: Network, student: Network, refs: tuple[NetworkRef, NetworkRef], seed: int
) -> Recipe:
    """Return the recipe of an arm, before its time becomes steps."""
    given = MethodInputs(
        contract=teacher.contract,
        base=None if arm.base is None else arm.base(),
        without=frozenset(arm.without),
        facts=network_facts(teacher, student, given_weights=False),
        few=few_images(arm.few, seed, teacher.contract) if arm.few else None,
    )
    made = METHODS[arm.method].recipe(*refs, given, seed=seed)
    return replace_keys(made, dict(arm.assignments)) if arm.assignments else made


def run(
    arm: Arm,
    networks: tuple[Network, Dataset, Dataset],
    refs: tuple[NetworkRef, NetworkRef],
    seconds: float,
    seed: int,
    note: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train one student and return its row.

    Args:
        networks: the teacher, and the data for choices and for the report.
        note: is told label-free measurements beside the accuracy.
    """
    teacher, design, report = networks
    began, paused = clock(), 0.0
    student = load(refs[1], like=teacher.contract, rng=from_seed(child_seed(seed, "student")))
    recipe = recipe_of(arm, teacher, student, refs, seed)
    with process_group(cpu=True) as alone:
        recipe = within_budget(recipe, teacher, student, seconds, alone, clock)
    stage = recipe.stages[0]
    stage = replace(stage, fit=replace(stage.fit, log_every=max(1, stage.fit.steps // LOOKS)))
    curve: list[dict[str, float]] = []
    probes = _Probes(teacher)

    def look(line: dict[str, Any]) -> None:
        nonlocal paused
        start = clock()
        spent = start - began - paused
        told = {
            "step": line["step"],
            "seconds": spent,
            "accuracy": evaluate(student, design).accuracy,
        }
        curve.append(told)
        note({**told, "label_free": probes.measure(student)})
        paused += clock() - start

    def adopt(settings: FitSettings) -> FitSettings:
        nonlocal stage
        stage = replace(stage, fit=settings)
        return settings

    pacer = Pacer(began + seconds, lambda: clock() - paused, adopt, torch.device("cpu"))
    errors: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        train = open_stage(stage, teacher, student, stage_rng(recipe, 0), scratch=Path(scratch))
        train.note = lambda made: errors.update(made.errors)
        result = train(logger=look, pacing=pacer)
    spent = clock() - began - paused
    return {
        "seed": seed,
        "steps": stage.fit.steps,
        "seconds": spent,
        "accuracy": evaluate(student, report).accuracy,
        "design": curve[-1]["accuracy"],
        "agreement": probes.measure(student)["shaders"]["agreement"],
        "curve": curve,
        "plan": list(recipe.plan),
        "errors": errors,
        "metrics": result.terms["metrics"],
        **provenance(),
    }


class _Probes:
    """Fixed sets of images, and what teacher and student say of them; no label is looked at."""

    def __init__(self, teacher: Network) -> None:
        self._asked = freeze(teacher)
        context = StreamContext(
            contract=teacher.contract,
            device=torch.device("cpu"),
            batch_size=128,
            steps=_MEASURED_ON // 128,
            split="held_out",
        )
        sources = {
            "shaders": Matched(source=Shaders()),
            "noise": Matched(source=Noise()),
            "short inversion": ShortInversion(),
        }
        self._sets = {}
        for name, source in sources.items():
            stream = source.open(context, self._asked, from_seed(_MEASURING_SEED))
            images = torch.cat([stream.draw(i, None).images for i in range(context.steps)])
            with torch.no_grad():
                self._sets[name] = images, self._asked(images).softmax(-1)

    def measure(self, student: Network) -> dict[str, dict[str, float]]:
        """Return agreement, confidences and divergence on every set."""
        asked = freeze(student)
        found = {}
        for name, (images, taught) in self._sets.items():
            with torch.no_grad():
                said = asked(images).softmax(-1)
            same = said.argmax(-1) == taught.argmax(-1)
            apart = (taught * (taught.clamp_min(1e-9).log() - said.clamp_min(1e-9).log())).sum(-1)
            found[name] = {
                "agreement": same.float().mean().item(),
                "divergence": apart.mean().item(),
                "student_confidence": said.amax(-1).mean().item(),
                "teacher_confidence": taught.amax(-1).mean().item(),
            }
        return found


def halves(teacher: Network) -> tuple[Dataset, Dataset]:
    """Return the test images for choices, the second half of each class, and for the report."""
    test = open_data(cifar10_folder(), teacher.contract, split="test", labels=True)
    assert test.labels is not None
    seen = torch.zeros(len(test), dtype=torch.bool)
    for label in range(teacher.contract.classes):
        places = (test.labels == label).nonzero()[:, 0]
        seen[places[: len(places) // 2]] = True
    first, second = (mask.nonzero()[:, 0] for mask in (seen, ~seen))
    return Part(whole=test, places=second), Part(whole=test, places=first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=PAIRS, default=next(iter(PAIRS)))
    parser.add_argument("--seconds", type=float, default=720.0)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--name", help="of the results file, in place of the pair's")
    parser.add_argument(
        "--exact", action="store_true", help="run rows again that took another time"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    of_teacher, of_student = given.pair.split(" -> ")
    reference, teacher = public_teacher(of_teacher)
    networks = (teacher, *halves(teacher))
    refs = (reference, NetworkRef(ref=f"builtin/{of_student}"))
    name = given.name or PAIRS[given.pair]
    told = {"pair": given.pair, "curves": "on the half of the test split for choices"}
    table = Table(name, __doc__.splitlines()[0], told)
    at = f"{given.seconds:.0f} seconds"
    for seed in given.seeds:
        for arm in given.arms:
            key = {"arm": arm, "seed": seed, "at": at}
            if table.has(**key):
                rows = [r for r in table.rows if all(r[k] == v for k, v in key.items())]
                own = [r for r in rows if r["host"] == provenance()["host"]]
                if not given.exact or all(_took(r, given.seconds) for r in own):
                    continue

            if ARMS[arm].few:  # drawn outside of the time
                few_images(ARMS[arm].few, seed, teacher.contract)

            def note(told: dict[str, Any], key: dict[str, Any] = key) -> None:
                with (RESULTS / "label_free.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"pair": given.pair, **key, **told}) + "\n")

            row = run(ARMS[arm], networks, refs, given.seconds, seed, note)
            if table.has(**key):
                table.drop(**key)
            table.add({"at": at, "arm": arm, **row}, ("at", "arm"))
            print(
                f"{at} {arm} seed {seed}: {row['accuracy']:.2%} (design {row['design']:.2%}), "
                f"{row['steps']} steps, {row['seconds']:.0f} s",
                flush=True,
            )
    close(table)


def _took(row: dict[str, Any], seconds: float) -> bool:
    """Whether a row took the time it was given."""
    return abs(float(row["seconds"]) / seconds - 1) <= NEAR


def close(table: Table) -> None:
    """Write what `auto` gains over each arm by seed; print every row, or that it is missing."""
    found = []
    for at in dict.fromkeys(row["at"] for row in table.rows):
        here = [row for row in table.rows if row["at"] == at]
        for arm in ARMS:
            own = [row["accuracy"] for row in here if row["arm"] == arm]
            if not own:
                print(f"{at:14}{arm:32}not run")
                continue
            mean = sum(own) / len(own)
            line = f"{at:14}{arm:32}{mean:7.2%}  n={len(own)}"
            gains = [a["accuracy"] - b["accuracy"] for a, b in pair(here, "auto", arm)]
            if arm != "auto" and gains:
                gain = sum(gains) / len(gains)
                if len(gains) > 1:
                    low, high = interval(gains)
                    told = {"at": at, "arm": "auto", "against": arm, "seeds": len(gains)}
                    found.append(told | {"gain": gain, "low": low, "high": high})
                line += f"  auto ahead by {gain:+.2%}"
            print(line)
    table.extend(("at", "arm"), gaps=found)


if __name__ == "__main__":
    main()
