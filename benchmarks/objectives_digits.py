"""Which objective teaches a student best, on digits, at equal steps?

Every objective of the catalogue, at its published weight, against labels alone, plain soft targets
(T = 4, as the public benchmarks weigh them), and itself with a teacher that was never trained. The
demonstration's pair; a teacher of its own for every seed, trained once and kept in --scratch. Two
transfer sets:

    real       the digits themselves, with labels: each objective beside labels
    shaders    shader images without labels, the same for all arms of a seed: objectives on features
               beside soft targets; "labels alone" are then the teacher's top-1

and, on the digits themselves, two ways to weigh an objective against the labels:

    published  as published, for runs of tens or hundreds of thousands of steps
    balanced   so that at the first step its gradient in the student's weights is as long as that
               of the labels: a rule of ours that looks at no result. Published weights begin with
               up to a hundred times the labels' gradient, which a run of a hundred steps has no
               time to get over; what is lost by that says little about the objective.

All arms of a seed share teacher, initial weights, and the order of the images. 500 digits that no
network saw judge the last step. Differences are paired by seed and image; their interval is a
bootstrap over seeds and images together.

    python benchmarks/objectives_digits.py --images real shaders --seeds 0 1 2 3 4
    python benchmarks/objectives_digits.py --arms "soft targets" dkd --teachers trained --seeds 0
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from doublure import catalogue
from doublure.core.protocols import Source
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, batches, open_data
from doublure.engine.distill import open_distillation, stream_context
from doublure.engine.fit import FitSettings
from doublure.engine.recipe import Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.activation_boundaries import ActivationBoundaries
from doublure.objectives.divergence import PUBLISHED as DIVERGENCES
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.knowledge_adjustment import PUBLISHED as ADJUSTMENTS
from doublure.objectives.knowledge_adjustment import KnowledgeAdjustment
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.truncated_targets import TruncatedTargets
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.sources.matched import Matched
from doublure.sources.shaders import Shaders
from doublure.sources.surrogate import Surrogate
from doublure.verbs.demo import BATCH, DATA, TEACHER, TEACHER_STEPS
from doublure.verbs.synthesize import synthesize
from doublure.verbs.train import train
from experiments import Table, by_host, clock, print_table, provenance

# Small and short: of larger students and longer runs all arms are right on nearly every digit.
STUDENT, STEPS, NUM_SHADERS = "builtin/convnet-4", 100, 4096
TEMPERATURE, INITIALISED = 4.0, 0.1
LABELS, PLAIN = "labels alone", "soft targets"
Kind = Literal["real", "shaders"]
Weights = Literal["published", "balanced"]
DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the table.

    Args:
        objective: None for labels alone.
        labels: weight of the labels beside it, where there are any.
        features: whether it leaves the classifier untaught, so that it stands beside other terms.
        needs_labels: whether it cannot go without the labels of the batch.
        first: what a tenth of the steps is spent on before.
    """

    name: str
    objective: AnyObjective | None
    labels: float = 1.0
    features: bool = False
    needs_labels: bool = False
    first: AnyObjective | None = None


SOFT = SoftTargets(temperature=TEMPERATURE)
ARMS: tuple[Arm, ...] = (
    Arm(name=LABELS, objective=None),
    Arm(name=PLAIN, objective=Weighted(terms=((0.9, SOFT),)), labels=0.1),
    Arm(name="reverse", objective=replace(DIVERGENCES["reinforced"], temperature=TEMPERATURE)),
    Arm(
        name="jensen-shannon",
        objective=replace(DIVERGENCES["generalised-kd"], temperature=TEMPERATURE),
    ),
    Arm(name="skewed", objective=replace(DIVERGENCES["skewed-kl"], temperature=TEMPERATURE)),
    Arm(name="adjustment", objective=ADJUSTMENTS["adjustment-alone"], needs_labels=True),
    Arm(name="temperatures", objective=ADJUSTMENTS["temperatures-alone"]),
    Arm(
        name="adjustment and temperatures",
        objective=KnowledgeAdjustment(),
        needs_labels=True,
    ),
    Arm(name="truncated", objective=Weighted(terms=((0.5, TruncatedTargets()),))),
    Arm(
        name="activation boundary, in two stages",
        objective=SoftTargets(temperature=3.0),
        first=ActivationBoundaries(),
    ),
)
# Covered by arms above, no objective of their own, or of sentences.
COVERED = {
    "return-to-go",
    "soft-targets",
    "hard-labels",
    "divergence",
    "knowledge-adjustment",
    "truncated-targets",
}


def all_arms() -> dict[str, Arm]:
    """Return the arms above and one for each other objective, at its defaults."""
    arms = {arm.name: arm for arm in ARMS}
    for entry in catalogue.by_name(catalogue.OBJECTIVES).values():
        if entry.name in COVERED:
            continue
        name = entry.name.replace("-", " ")
        arms[name] = Arm(
            name=name,
            objective=entry.make(),
            features=bool({"features", "weights"} & set(entry.card.needs)),
            needs_labels="labels" in entry.card.needs and not _asks_whose(entry.make()),
        )
    return arms


def _asks_whose(objective: AnyObjective) -> bool:
    """Return whether the teacher's top-1 can stand for the labels of an objective."""
    return any(field.name == "of" for field in fields(objective))  # type: ignore[arg-type]


def objective_of(arm: Arm, *, labelled: bool, weight: float | None = None) -> AnyObjective:
    """Return an arm's objective with the terms that it stands beside.

    Args:
        weight: of the objective beside labels of weight 1; None as published.
    """
    if weight is not None:
        assert arm.objective is not None
        return Weighted(terms=((weight, arm.objective), (1.0, HardLabels())))
    if arm.objective is None:
        return HardLabels(of="batch" if labelled else "teacher")
    objective = arm.objective
    if not labelled and _asks_whose(objective):
        objective = replace(objective, of="teacher")  # type: ignore[type-var]
    terms: list[tuple[float, AnyObjective]] = [(1.0, objective)]
    if labelled:
        terms.append((arm.labels, HardLabels()))
    elif arm.features:
        terms.append((1.0, SOFT))
    return Weighted(terms=tuple(terms))


def stages_of(
    arm: Arm, source: Source, steps: int, *, labelled: bool, weight: float | None = None
) -> list[Stage]:
    """Return what an arm does, one stage after the other."""
    fit = FitSettings(batch_size=BATCH, precision="float32", log_every=steps)
    taught = objective_of(arm, labelled=labelled, weight=weight)
    if arm.first is None:
        return [Stage(source=source, objective=taught, fit=replace(fit, steps=steps))]
    begun = max(1, round(INITIALISED * steps))
    return [
        Stage(source=source, objective=arm.first, fit=replace(fit, steps=begun)),
        Stage(source=source, objective=taught, fit=replace(fit, steps=steps - begun)),
    ]


def balanced_weight(stage: Stage, teacher: Network, student: Network, seed: int) -> float:
    """Return at which weight the objective's first gradient is as long as that of the labels."""
    stream, loss_fn = open_distillation(
        student,
        teacher,
        stage.source,
        stage.objective,
        settings=stage.fit,
        context=stream_context(student.contract, student, stage.fit),
        rng=stage_generator(seed, 0),
    )
    batch = stream.draw(0, student)
    with FeatureRecorder(student.train(), loss_fn.features.student) as recorder:
        terms = loss_fn(recorder.record(batch.images), batch.teacher, batch)
    labels = terms.pop("hard_labels")
    own = torch.stack(list(terms.values())).sum()
    weights = list(student.parameters())

    def length(loss: Tensor) -> float:
        parts = torch.autograd.grad(loss, weights, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts]).norm().item()

    return length(labels) / length(own)


def stage_generator(seed: int, stage: int) -> torch.Generator:
    return from_seed(child_seed(seed, "stage", stage))


@cache
def teacher_of(seed: int, scratch: Path, *, trained: bool, steps: int) -> Network:
    """Return the teacher of a seed; one that is trained is trained once."""
    folder = scratch / f"teacher-{seed}-{steps}"
    if not (folder / "summary.json").exists():
        train(TEACHER, DATA, out=folder, steps=steps, seed=seed, batch_size=BATCH, overwrite=True)
    teacher = load(str(folder))
    if trained:
        return teacher
    rng = from_seed(child_seed(seed, "never trained"))
    return load(NetworkRef(ref=TEACHER), like=teacher.contract, rng=rng)


@cache
def shown(kind: Kind, seed: int, scratch: Path, teacher_steps: int) -> Source:
    """Return the transfer set of a seed; shader images are drawn and balanced once."""
    if kind == "real":
        return Surrogate(data=DATA, labels=True, held_out=0.0)
    teacher_of(seed, scratch, trained=True, steps=teacher_steps)
    folder = scratch / f"shaders-{seed}-{teacher_steps}"
    if not (folder / "set.json").exists():
        synthesize(
            Matched(source=Shaders()),
            count=NUM_SHADERS,
            out=folder,
            seed=seed,
            teacher=str(scratch / f"teacher-{seed}-{teacher_steps}"),
            balance=True,
            overwrite=True,
        )
    return Surrogate(data=str(folder), held_out=0.0)


@cache
def test_split(seed: int, given: "MethodInputs") -> Dataset:
    teacher = teacher_of(seed, given.scratch, trained=True, steps=given.teacher_steps)
    return open_data(DATA, teacher.contract, split="test", labels=True)


def called(network: Network, test: Dataset) -> Tensor:
    """Return what a network calls each test image."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(pixels / 255).argmax(-1) for pixels, _ in batches(test, 256)])


@dataclass(frozen=True, kw_only=True)
class MethodInputs:
    """What all runs of a table share."""

    scratch: Path
    student: str
    steps: int
    teacher_steps: int


def run(
    arm: Arm, kind: Kind, weights: Weights, trained: bool, seed: int, given: MethodInputs
) -> dict[str, Any]:
    """Train one student and return its row."""
    source = shown(kind, seed, given.scratch, given.teacher_steps)
    teacher = teacher_of(seed, given.scratch, trained=trained, steps=given.teacher_steps)
    stages = partial(stages_of, arm, source, given.steps, labelled=kind == "real")

    def fresh() -> Network:
        rng = from_seed(child_seed(seed, "student"))
        return load(NetworkRef(ref=given.student), like=teacher.contract, rng=rng)

    weight = None
    if weights == "balanced":
        weight = balanced_weight(stages(weight=1.0)[0], teacher, fresh(), seed)
    student = fresh()
    seconds = train_student(arm, stages(weight=weight), teacher, student, seed)
    test = test_split(seed, given)
    return {
        "at": place(kind, weights, trained),
        "arm": arm.name,
        "images": kind,
        "weights": weights,
        "teacher": "trained" if trained else "never trained",
        "seed": seed,
        "steps": given.steps,
        "seconds": seconds,
        "weight": weight,
        **judged(student, teacher, test),
    }


def train_student(
    arm: Arm, stages: Sequence[Stage], teacher: Network, student: Network, seed: int
) -> float:
    """Train a student by the stages of an arm and return the seconds that took."""
    began = clock()
    for i, stage in enumerate(stages):
        # The last stage of every arm sees the same images in the same order.
        rng = stage_generator(seed, 0 if stage.objective is not arm.first else i + 1)
        open_stage(stage, teacher, student, rng)()
    return clock() - began


def judged(student: Network, teacher: Network, test: Dataset) -> dict[str, Any]:
    """Return how many test images a student has right, and which, as a row has them."""
    ours = called(student, test)
    right = (ours == test.labels).numpy()
    return {
        "accuracy": float(right.mean()),
        "agreement": float((ours == called(teacher, test)).float().mean()),
        "right": np.packbits(right).tobytes().hex(),
        "count": len(right),
    }


def place(kind: str, weights: str, trained: bool) -> str:
    told = [f"{kind} images", *(["weights balanced"] if weights == "balanced" else [])]
    return ", ".join(told if trained else [*told, "a teacher never trained"])


def correct(rows: Sequence[dict[str, Any]], **key: Any) -> dict[int, np.ndarray]:
    """Return, by seed, which test images an arm has right."""
    return {
        row["seed"]: np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))[
            : row["count"]
        ].astype(float)
        for row in rows
        if all(row[name] == value for name, value in key.items())
    }


def difference(
    ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray]
) -> dict[str, float] | None:
    """Return the paired difference of two arms in points, with a 95 % bootstrap interval."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    gaps = 100 * np.stack([ours[seed] - theirs[seed] for seed in seeds])
    rng = np.random.default_rng(0)
    drawn = [
        gaps[rng.integers(len(gaps), size=len(gaps))][
            :, rng.integers(gaps.shape[1], size=gaps.shape[1])
        ].mean()
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"mean": gaps.mean(), "low": low, "high": high, "seeds": len(seeds)}


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what each arm has over labels, over soft targets, and over its own control."""
    made = []
    for kind, weights, arm in sorted({(r["images"], r["weights"], r["arm"]) for r in rows}):
        mine = partial(correct, rows, images=kind, weights=weights)
        ours = mine(arm=arm, teacher="trained")
        for rival, theirs in (
            # No weight stands beside the labels alone.
            (LABELS, mine(arm=LABELS, teacher="trained", weights="published")),
            (PLAIN, mine(arm=PLAIN, teacher="trained")),
            ("a teacher never trained", mine(arm=arm, teacher="never trained")),
        ):
            gap = difference(ours, theirs)
            if gap is not None and rival != arm:
                made.append({"at": place(kind, weights, True), "arm": arm, "over": rival, **gap})
    return made


def differences_by_host(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the same of each kind of host."""
    return [
        {"host": host, **gap} for host, made in by_host(rows).items() for gap in differences(made)
    ]


def worth_running(arm: Arm, kind: Kind, weights: Weights, trained: bool) -> bool:
    if arm.needs_labels and kind == "shaders":
        return False
    if arm.objective is None:  # labels have no teacher but on images without any, and no rival
        return weights == "published" and (trained or kind == "shaders")
    # What two stages begin with has no labels beside it.
    return weights == "published" or (kind == "real" and arm.first is None)


def main() -> None:
    arms = all_arms()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", default=list(arms), choices=list(arms), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--images", nargs="+", default=get_args(Kind), choices=get_args(Kind))
    parser.add_argument(
        "--weights", nargs="+", default=get_args(Weights), choices=get_args(Weights)
    )
    parser.add_argument("--teachers", nargs="+", default=["trained", "never-trained"])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--teacher-steps", type=int, default=TEACHER_STEPS)
    parser.add_argument("--student", default=STUDENT)
    parser.add_argument("--name", default="objectives_digits", help="of the results file")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "doublure-objectives"
    )
    told = parser.parse_args()
    given = MethodInputs(
        scratch=told.scratch,
        student=told.student,
        steps=told.steps,
        teacher_steps=told.teacher_steps,
    )
    torch.set_num_threads(1)
    setting = {
        "pair": f"{TEACHER} -> {given.student}",
        "steps": given.steps,
        "teacher_steps": given.teacher_steps,
        "batch_size": BATCH,
    }
    table = Table(told.name, __doc__.splitlines()[0], setting)
    for seed, kind, weights, name in product(told.seeds, told.images, told.weights, told.arms):
        for trained in (teacher == "trained" for teacher in told.teachers):
            arm, at = arms[name], place(kind, weights, trained)
            if not worth_running(arm, kind, weights, trained):
                continue
            # Teachers are trained anew on each kind of host, and differ from one to the next.
            if table.has(at=at, arm=name, seed=seed, host=provenance()["host"]):
                continue
            row = run(arm, kind, weights, trained, seed, given)
            table.add(row, ("at", "arm"))
            print(f"{at}, {name}, seed {seed}: {row['accuracy']:.2%}", flush=True)
    table.extend(differences=differences_by_host(table.rows))
    table.write(("at", "arm"))
    print_table(json.loads(table.path.read_text(encoding="utf-8"))["summary"])
    for row in table.head["differences"]:
        print(
            f"{row['at']}, {row['arm']} over {row['over']}: {row['mean']:+.2f} points "
            f"({row['low']:+.2f} to {row['high']:+.2f}, {row['seeds']} seeds)"
        )
    seconds = statistics.mean(row["seconds"] for row in table.rows)
    print(f"{seconds:.1f} s a run")


if __name__ == "__main__":
    main()
