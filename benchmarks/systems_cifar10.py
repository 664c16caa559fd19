"""Do published systems on real images do on CIFAR-10 what their papers say, at equal time?

The public ResNet-20 (81.0 % on the JPEG test split) teaches a ResNet-8 from scratch in a given time
of one processor thread, everything included, on real images, shifted and mirrored:

    labelled     similarity preserving, attention transfer and knowledge representing beside
                 labels, at their weights, against labels alone, plain soft targets, and themselves
                 with a teacher that was never trained
    AutoAugment  labels under the published policies, alone and with the teacher's likeliest
                 classes beside them
    unlabelled   activation boundaries for a tenth of the steps and soft targets (T = 3) for the
                 rest, the paper's order in the paper's regime of short training, against soft
                 targets all along, and against FitNets' hints in place of the boundaries

Short training is three minutes: some epochs. A run is as long as others of its arm say, and is run
again where it came to more than 3 % more or less. Arms of a seed share initial weights and the
order of the images; the test images judge the last step. Differences are paired by seed and image,
with a bootstrap over both.

    DOUBLURE_DATA=... python benchmarks/systems_cifar10.py --seeds 0 1 2
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from cifar10 import public_teacher
from doublure.core.protocols import Source
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, open_data
from doublure.engine.fit import FitSettings
from doublure.engine.recipe import Stage
from doublure.engine.stage_opening import open_stage
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.activation_boundaries import ActivationBoundaries
from doublure.objectives.attention_transfer import AttentionTransfer
from doublure.objectives.fit_nets import FitNets
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.knowledge_representing import KnowledgeRepresenting
from doublure.objectives.similarity_preserving import SimilarityPreserving
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.truncated_targets import TruncatedTargets
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.sources.augmenting import augmented
from doublure.sources.surrogate import Surrogate
from doublure.verbs.demo import BATCH
from experiments import Table, by_host, clock, print_table, provenance, summarize
from methods import Gauge, Length, run_as_long
from objectives_cifar10 import UNTRAINED, decoded
from objectives_digits import correct, difference, judged
from real_data import cifar10_folder

STUDENT, SECONDS = "builtin/resnet8", 180.0
# Steps of the first runs, which tell what steps cost.
GAUGED = 40
# What a tenth of the steps goes to in a run of two stages.
INITIALISED = 0.1
LABELLED, UNLABELLED = "labelled images", "unlabelled images"
AUGMENTED = "labelled images under AutoAugment"
NEVER = "a teacher never trained"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row: where it is run, what it matches, and what a tenth of the steps goes to before."""

    at: str
    objective: AnyObjective
    first: AnyObjective | None = None
    trained: bool = True


def beside_labels(objective: AnyObjective) -> AnyObjective:
    return Weighted(terms=((1.0, objective), (1.0, HardLabels())))


def arms() -> dict[str, Arm]:
    """Return every arm by name."""
    on_layers = {
        "similarity preserving": SimilarityPreserving(),
        "attention transfer": AttentionTransfer(),
        "knowledge representing": KnowledgeRepresenting(),
    }
    likeliest = Weighted(terms=((1.0, HardLabels()), (0.5, TruncatedTargets())))
    plain = Weighted(terms=((0.9, SoftTargets(temperature=4.0)), (0.1, HardLabels())))
    soft = SoftTargets(temperature=3.0)
    return {
        "labels alone": Arm(at=LABELLED, objective=HardLabels()),
        "soft targets and labels": Arm(at=LABELLED, objective=plain),
        **{
            name if trained else f"{name}, {NEVER}": Arm(
                at=LABELLED, objective=beside_labels(objective), trained=trained
            )
            for name, objective in on_layers.items()
            for trained in (True, False)
        },
        "labels alone, augmented": Arm(at=AUGMENTED, objective=HardLabels()),
        "likeliest classes and labels": Arm(at=AUGMENTED, objective=likeliest),
        "soft targets": Arm(at=UNLABELLED, objective=soft),
        "activation boundaries, then soft targets": Arm(
            at=UNLABELLED, objective=soft, first=ActivationBoundaries()
        ),
        "hints, then soft targets": Arm(at=UNLABELLED, objective=soft, first=FitNets()),
    }


# Each system and what it is held against.
HELD_AGAINST = (
    ("similarity preserving", "labels alone"),
    ("similarity preserving", f"similarity preserving, {NEVER}"),
    ("similarity preserving", "attention transfer"),
    ("similarity preserving", "soft targets and labels"),
    ("attention transfer", "labels alone"),
    ("attention transfer", f"attention transfer, {NEVER}"),
    ("attention transfer", "soft targets and labels"),
    ("knowledge representing", "labels alone"),
    ("knowledge representing", f"knowledge representing, {NEVER}"),
    ("likeliest classes and labels", "labels alone, augmented"),
    ("likeliest classes and labels", "labels alone"),
    ("activation boundaries, then soft targets", "soft targets"),
    ("activation boundaries, then soft targets", "hints, then soft targets"),
)


class Pair:
    """Teachers, images and judges that all runs share."""

    def __init__(self) -> None:
        _, self.trained = public_teacher()
        contract = self.trained.contract
        reference = NetworkRef(ref="builtin/resnet20")
        self.untrained = load(reference, like=contract, rng=from_seed(UNTRAINED))
        self.test: Dataset = open_data(cifar10_folder(), contract, split="test", labels=True)
        self._images = decoded(contract)

    def shown(self, at: str) -> Source:
        """Return the real images as they are shown at a place of the table."""
        images = Surrogate(data=self._images, labels=at != UNLABELLED, held_out=0.0)
        augmentation = "autoaugment" if at == AUGMENTED else "mild"
        return augmented(images, augmentation, self.trained.contract)


def stages_of(arm: Arm, source: Source, steps: int) -> list[Stage]:
    """Return what an arm does, one stage after the other."""
    begun = 0 if arm.first is None else max(1, round(INITIALISED * steps))
    plan = [(arm.first, begun)] if arm.first is not None else []
    return [
        Stage(
            source=source,
            objective=objective,
            fit=FitSettings(
                steps=length,
                batch_size=BATCH,
                precision="float32",
                log_every=max(1, length // 4),
            ),
        )
        for objective, length in [*plan, (arm.objective, steps - begun)]
    ]


def run(name: str, arm: Arm, pair: Pair, seed: int, *, steps: int) -> dict[str, Any]:
    """Train one student and return its row."""
    began = clock()
    teacher: Network = pair.trained if arm.trained else pair.untrained
    rng = from_seed(child_seed(seed, "student"))
    student = load(NetworkRef(ref=STUDENT), like=teacher.contract, rng=rng)
    done, curve = 0, list[dict[str, float]]()
    for stage in stages_of(arm, pair.shown(arm.at), steps):

        def look(line: dict[str, Any], done: int = done) -> None:
            passes = BATCH * (done + line["step"])
            curve.append({"step": passes // BATCH, "seconds": clock() - began, "passes": passes})

        # The last stage of every arm sees the same images in the same order.
        last = stage.objective is arm.objective
        rng = from_seed(child_seed(seed, "stage", 0 if last else 1))
        # Labels alone ask no teacher, and do not pay for one.
        asked = None if isinstance(arm.objective, HardLabels) else teacher
        open_stage(stage, asked, student, rng)(logger=look)
        done += stage.fit.steps
    seconds = clock() - began
    return {
        "arm": name,
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "teacher_forwards": 0 if isinstance(arm.objective, HardLabels) else BATCH * steps,
        "teacher_backwards": 0,
        "curve": curve,
        **judged(student, pair.trained, pair.test),
    }


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what each system has over what it is held against."""
    made = []
    for host, here in by_host(rows).items():
        for length in dict.fromkeys(row["length"] for row in here):
            of = partial(correct, here, length=length)
            for arm, rival in HELD_AGAINST:
                gap = difference(of(arm=arm), of(arm=rival))
                if gap is not None:
                    at = next(row["at"] for row in here if row["arm"] == arm)
                    made.append({"host": host, "at": at, "arm": arm, "over": rival, **gap})
    return made


def main() -> None:
    known = arms()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", nargs="+", default=list(known), choices=known, metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--name", default="systems_cifar10", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"pair": "resnet20 -> resnet8", "batch_size": BATCH}
    table = Table(given.name, __doc__.splitlines()[0], setting)
    asked = Length(given.seconds, "seconds")
    gauge = Gauge(GAUGED)
    gauge.learn_from(table)
    pair = Pair()
    for seed in given.seeds:
        for name in given.arms:
            key = {"arm": name, "seed": seed, "length": str(asked)}
            if table.has(host=provenance()["host"], **key):
                continue
            row = run_as_long(partial(run, name, known[name], pair, seed), name, asked, gauge)
            assert row is not None, f"{name} does not fit into {asked}"
            at = f"{known[name].at}, {asked}"
            table.add({"at": at, "length": str(asked), **row}, ("at", "arm"))
            print(
                f"{at}, {name}, seed {seed}: {row['accuracy']:.2%}, {row['steps']} steps, "
                f"{row['seconds']:.0f} s",
                flush=True,
            )
    table.extend(("at", "arm"), differences=differences(table.rows))
    print_table(summarize(table.rows, ("at", "arm")))
    for gap in table.head["differences"]:
        print(
            f"{gap['arm']} over {gap['over']}: {gap['mean']:+.2f} points "
            f"({gap['low']:+.2f} to {gap['high']:+.2f}, {gap['seeds']} seeds)"
        )


if __name__ == "__main__":
    main()
