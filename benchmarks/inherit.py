"""What can a student do that inherits and is not trained at all?

CIFAR-10: public networks. Digits: teachers of each family, trained here for every seed. A student
takes over what it can of its teacher; then nothing more ("left out"), or each of its maps is solved
on shader images at the contract's brightness, on noise, or on real training images. "Other family"
stands for pairs with no layer in common, where only ends of stages and the classifier are solved.

    DOUBLURE_DATA=... python benchmarks/inherit.py --task cifar10 --pairs "resnet20 -> resnet8"
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cifar10 import public_teacher
from doublure.compress.inherit import Inherit
from doublure.core.protocols import Batch, Source, StreamContext
from doublure.core.seeding import child, child_seed, from_seed
from doublure.data.datasets import Dataset, Part, open_data
from doublure.nets.network import Network, count_parameters
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.sources.matched import Matched
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.evaluation import evaluate
from doublure.verbs.train import train
from experiments import Table, print_table, summarize
from real_data import cifar10_folder

PAIRS = {
    "cifar10": ("resnet20 -> resnet8", "resnet56 -> resnet20", "resnet20 -> resnet20-0.5"),
    "digits": (
        "resnet20 -> resnet8",
        "resnet20 -> resnet20-0.5",
        "convnet-16 -> convnet-6",
        "wrn22-2 -> wrn16-1",
        "vgg11 -> vgg8",
        "mobilenetv2 -> mobilenetv2-0.5",
        "wrn22-2 -> resnet20",
        "resnet20 -> mobilenetv2-0.5",
    ),
}
ARMS = ("left out", "noise", "shaders", "real")
IMAGES, BATCH, TEACHER_STEPS = 1024, 128, 300


def images(arm: str, teacher: Network, data: str, seed: int) -> list[Batch]:
    """Return the images that an arm is repaired on."""
    sources: dict[str, Source] = {"noise": Noise(), "real": Surrogate(data=data)}
    source = sources.get(arm, Matched(source=Shaders()))
    steps = IMAGES // BATCH
    context = StreamContext(
        contract=teacher.contract, device=torch.device("cpu"), batch_size=BATCH, steps=steps
    )
    stream = source.open(context, teacher, child(from_seed(seed), arm))
    return [stream.draw(step, None) for step in range(steps)]


def open_teacher(task: str, name: str, seed: int) -> tuple[Network, str]:
    """Return a network and its data."""
    if task == "cifar10":
        return public_teacher(name)[1].eval(), str(cifar10_folder())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "teacher"
        train(
            f"builtin/{name}",
            "builtin/digits",
            out=out,
            steps=TEACHER_STEPS,
            batch_size=64,
            seed=seed,
            precision="float32",
        )
        return load(str(out)).eval(), "builtin/digits"


def run(
    arm: str, teacher: Network, data: str, student: str, test: Dataset, seed: int
) -> dict[str, Any]:
    """Begin one student and return its row."""
    rng = from_seed(child_seed(seed, "student"))
    made = load(NetworkRef(ref=f"builtin/{student}"), like=teacher.contract, rng=rng)
    shown = images(arm, teacher, data, seed)
    began = time.process_time()
    begun = Inherit(num_images=IMAGES, repair=arm != "left out")(
        made, teacher, shown, from_seed(seed)
    )
    seconds = time.process_time() - began
    score = evaluate(made.eval(), test)
    return {
        "arm": arm,
        "seed": seed,
        "accuracy": score.accuracy,
        "correct": score.correct,
        "count": score.count,
        "agreement": agreement(made, teacher, test),
        "seconds": seconds,
        "steps": 0,
        "how": begun.how,
        "errors": dict(begun.errors),
        "notes": list(begun.notes),
        "parameters_kept": count_parameters(made) / count_parameters(teacher),
    }


@torch.no_grad()
def agreement(student: Network, teacher: Network, test: Dataset, most: int = 2000) -> float:
    """Return the share of test images that both name alike."""
    places = torch.randperm(len(test), generator=from_seed(0))[:most]
    shown = torch.cat([test.images(part) for part in torch.split(places, 256)]).float() / 255
    alike = [
        student.eval()(part).argmax(1) == teacher(part).argmax(1)
        for part in torch.split(shown, 256)
    ]
    return float(torch.cat(alike).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=PAIRS, default="digits")
    parser.add_argument("--pairs", nargs="+")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, help="of test images; all of them by default")
    parser.add_argument("--name", default="inherit", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"num_images": IMAGES, "clock": "the processor's, of the repair alone"}
    table = Table(given.name, __doc__.splitlines()[0], setting)
    for pair in given.pairs or PAIRS[given.task]:
        of_teacher, of_student = pair.split(" -> ")
        at = f"{given.task}, {pair}"
        for seed in given.seeds:
            missing = missing_arms(table, given.arms, at, seed)
            if not missing:
                continue
            teacher, data = open_teacher(given.task, of_teacher, seed)
            test = open_data(data, teacher.contract, split="test")
            if given.count is not None:
                places = torch.randperm(len(test), generator=from_seed(0))[: given.count]
                test = Part(whole=test, places=places)
            taught = evaluate(teacher, test).accuracy
            for arm in missing:
                row = run(arm, teacher, data, of_student, test, seed) | {"teacher": taught}
                table.add({"at": at, **row}, ("at", "arm"))
                print(
                    f"{at} (teacher {taught:.1%}) {arm} seed {seed}: {row['accuracy']:.2%}, "
                    f"{row['seconds']:.1f} s, {row['how']}; {row['errors'].get('logits', 0):.2f}",
                    flush=True,
                )
    print_table(summarize(table.rows, ("at", "arm")))


def missing_arms(table: Table, arms: Sequence[str], at: str, seed: int) -> list[str]:
    """Return the arms that have no row yet."""
    return [arm for arm in arms if not table.has(at=at, arm=arm, seed=seed)]


if __name__ == "__main__":
    main()
