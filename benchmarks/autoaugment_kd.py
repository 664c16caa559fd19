"""Does a teacher beside the labels help more, the stronger the augmentation is?

Digits under RandAugment (two operations of one magnitude) and under AutoAugment; labels alone,
labels smoothed by 0.1, labels with the teacher's likeliest classes (weight 0.5), the same with all
classes, and the same asked about another view than the student's. The demonstration's pair at equal
steps; the teacher has learnt at magnitude 4, once for every seed. Plain distillation helps alike at
every strength; repair is an interaction, so the figure is the slope of (teacher - labels alone) in
points per unit of magnitude, with a bootstrap interval over seeds.

    python benchmarks/autoaugment_kd.py --seeds 0 1 2 3 4
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from doublure.core.protocols import Batch, InputContract, Source, Stream, StreamContext
from doublure.core.seeding import child, child_seed, from_seed
from doublure.data.datasets import open_data
from doublure.engine.fit import FitSettings
from doublure.engine.recipe import Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.truncated_targets import TruncatedTargets
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.sources.augmentation import Augmented
from doublure.sources.augmenting import augmented
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.evaluation import evaluate
from doublure.tasks.classification.scores import Classification
from doublure.verbs.demo import BATCH, DATA, STUDENT, TEACHER, TEACHER_STEPS
from doublure.verbs.train import train
from experiments import Table, clock, of_one_host, print_table

STEPS, DRAWS = 300, 4000
STRENGTHS = ("0", "2", "4", "6", "8", "10", "autoaugment")
TAUGHT_AT = "4"
LABELS, TRUNCATED = "labels alone", "likeliest classes"


def beside(objective: AnyObjective) -> AnyObjective:
    return Weighted(terms=((1.0, HardLabels()), (0.5, objective)))


ARMS: dict[str, AnyObjective] = {
    LABELS: HardLabels(),
    "labels smoothed": HardLabels(label_smoothing=0.1),
    TRUNCATED: beside(TruncatedTargets()),
    "all classes": beside(TruncatedTargets(num_kept=10)),
    "another view": beside(TruncatedTargets()),
}


@dataclass(frozen=True, kw_only=True)
class OtherView:
    """Source: the teacher is shown the images before they were augmented for the student."""

    source: Source
    plain: Source

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "OtherViewStream":
        # The wrapper hands its source this child, so that both draw the same images.
        return OtherViewStream(
            self.source.open(context, teacher, rng),
            self.plain.open(context, teacher, child(rng, "source")),
        )


class OtherViewStream:
    def __init__(self, changed: Stream, plain: Stream) -> None:
        self._changed, self._plain = changed, plain

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        changed, plain = self._changed.draw(step, student), self._plain.draw(step, student)
        assert changed.labels is not None
        assert plain.labels is not None
        assert torch.equal(changed.labels, plain.labels)
        return replace(changed, views={"student": changed.images, "teacher": plain.images})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def shown(strength: str, contract: InputContract) -> Source:
    """Return the digits at a magnitude, or under AutoAugment; shifts are off, to vary one thing."""
    images = Surrogate(data=DATA, labels=True, held_out=0.0)
    if strength == "autoaugment":
        source = augmented(images, "autoaugment", contract)
        return replace(source, source=images)  # type: ignore[call-arg]
    made = augmented(images, "randaugment", contract)
    assert isinstance(made, Augmented)
    changes = replace(made.augmentation, shift=0, magnitude=float(strength))
    return replace(made, augmentation=changes)


def run(arm: str, strength: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train one student and return its row."""
    folder = given.scratch / f"teacher-augmented-{seed}-{given.teacher_steps}"
    if not (folder / "summary.json").exists():
        train(
            TEACHER,
            DATA,
            out=folder,
            augment="randaugment",
            set={"magnitude": TAUGHT_AT},
            steps=given.teacher_steps,
            seed=seed,
            batch_size=BATCH,
            overwrite=True,
        )
    teacher = load(str(folder))
    source = shown(strength, teacher.contract)
    if arm == "another view":
        source = OtherView(source=source, plain=Surrogate(data=DATA, labels=True, held_out=0.0))
    fit = FitSettings(steps=given.steps, batch_size=BATCH, precision="float32")
    stage = Stage(source=source, objective=ARMS[arm], fit=fit)
    rng = from_seed(child_seed(seed, "student"))
    student = load(NetworkRef(ref=STUDENT), like=teacher.contract, rng=rng)
    began = clock()
    open_stage(stage, teacher, student, from_seed(child_seed(seed, "stage")))()
    seconds = clock() - began
    test = open_data(DATA, teacher.contract, split="test", labels=True)
    score = evaluate(student, test)
    answers = [
        (network(test.images(torch.arange(len(test))) / 255).detach())
        for network in (student.eval(), teacher.eval())
    ]
    return {
        "at": strength,
        "arm": arm,
        "seed": seed,
        "steps": given.steps,
        "seconds": seconds,
        "accuracy": score.accuracy,
        "nll": score.nll,
        "agreement": Classification().agreement([(answers[0], answers[1])]).value,
    }


def slope(rows: Sequence[dict[str, Any]], arm: str) -> dict[str, Any] | None:
    """Return by how many points a unit of magnitude raises what an arm has over labels alone."""
    strengths = [strength for strength in STRENGTHS if strength != "autoaugment"]
    scored = {(row["arm"], row["at"], row["seed"]): 100 * row["accuracy"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    whole = [
        seed
        for seed in seeds
        if all((name, s, seed) in scored for name in (arm, LABELS) for s in strengths)
    ]
    if not whole:
        return None
    magnitudes = np.array([float(s) for s in strengths])
    gaps = np.array(
        [[scored[arm, s, seed] - scored[LABELS, s, seed] for s in strengths] for seed in whole]
    )
    centred = magnitudes - magnitudes.mean()
    each = gaps @ centred / (centred @ centred)
    rng = np.random.default_rng(0)
    drawn = each[rng.integers(len(each), size=(DRAWS, len(each)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"mean": each.mean(), "low": low, "high": high, "seeds": len(whole)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--strengths", nargs="+", default=list(STRENGTHS), choices=STRENGTHS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--teacher-steps", type=int, default=TEACHER_STEPS)
    parser.add_argument("--name", default="autoaugment_kd", help="of the results file")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "doublure-objectives"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"pair": f"{TEACHER} -> {STUDENT}", "batch_size": BATCH, "taught_at": TAUGHT_AT}
    table = Table(given.name, __doc__.splitlines()[0], setting)
    for seed in given.seeds:
        for strength in given.strengths:
            for arm in given.arms:
                if table.has(at=strength, arm=arm, seed=seed):
                    continue
                row = run(arm, strength, seed, given)
                table.add(row, ("at", "arm"))
                print(
                    f"magnitude {strength}, {arm}, seed {seed}: {row['accuracy']:.2%}", flush=True
                )
    slopes = {arm: slope(of_one_host(table.rows), arm) for arm in ARMS if arm != LABELS}
    table.extend(slopes={arm: value for arm, value in slopes.items() if value is not None})
    table.write(("at", "arm"))
    print_table(json.loads(table.path.read_text(encoding="utf-8"))["summary"])
    for arm, value in table.head["slopes"].items():
        print(
            f"{arm} over {LABELS}: {value['mean']:+.2f} points a unit of magnitude "
            f"({value['low']:+.2f} to {value['high']:+.2f}, {value['seeds']} seeds)"
        )


if __name__ == "__main__":
    main()
