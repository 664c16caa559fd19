"""Which source of images serves a student best that never saw a photograph?

The public ResNet-20 (81.0 % on the JPEG test split) teaches a ResNet-8 from scratch, with batches
of 128. Every method has its own objective, optimizer and weights of the loss; beside it stands the
same without the term that defines it. Noise and shader images are bare, matched and balanced: no
augmentation, no mixup, no attack. Real images, mildly augmented, are the bound.

One table is at equal time of one processor thread, all preparation included; the other at equal
passes of the teacher, images shown to it and gradients that went back to them. A run is as long as
others of its arm say, and is run again where it came to more than 3 % more or less. Published
schedules take GPU hours, so how far each method goes in 10 to 20 minutes is ours, chosen by what
its steps cost and never by a score on real images:

    inversion    60 iterations of 128 images at a rate of 0.1 (published: 2000 of 256 at 0.05); the
                 statistics' weight is 1, the least of the published ones: at 10, so few iterations
                 leave images that the teacher does not call by their labels
    fast-5       a generator of half the published width, a third of its cost; the student's rate is
                 0.1, for batches of half the published size
    DFAD         the same generator; a turn of it every five steps, as published
    pools        a new batch every 50 steps, DeepInversion's published pace, for fast-5 as well;
                 behind 2 first batches of inversion, 20 of the generator (its published warm-up);
                 shown shifted and mirrored

    DOUBLURE_DATA=... python benchmarks/sources_cifar10.py --seconds 600 --seeds 0
    DOUBLURE_DATA=... python benchmarks/sources_cifar10.py --at passes --seeds 0
"""

import argparse

import torch

from cifar10 import POOL, public_teacher
from doublure.core.protocols import InputContract
from doublure.data.datasets import open_data
from doublure.recipes import PARTS
from doublure.sources.augmentation import Augmented
from doublure.sources.augmenting import shifts_and_flips
from doublure.sources.noise import Noise
from doublure.sources.surrogate import Surrogate
from experiments import Arm, Setting, Table
from methods import Gauge, Length, Scale, close, fill, method_arms
from real_data import cifar10_folder

SECONDS, PASSES, BATCH = 1200.0, 300_000, 128
WIDTH = 32
# Steps of the student in the first runs, which tell what steps cost.
GAUGED = 200
# Of the rows that there are.
MACHINES = "one for seed 0 and one of half its speed for the others, so gains are paired by seed"
SEARCH = {"optimisation.iterations": "60", "optimisation.learning_rate": "0.1"}
POOLS = {"": {"every": "50", "first": "2"}, "fast-meta": {"every": "50", "first": "20"}}
ARMS = (
    "real",
    "shaders",
    "noise",
    "DeepInversion",
    "DeepInversion without features",
    "Adaptive DeepInversion",
    "fast-5",
    "fast-5 with fresh generator",
    "DFAD",
    "DFAD with frozen generator",
)
# Each method and the same without a term of it, or what it is held against.
HELD_AGAINST = (
    ("DeepInversion", "DeepInversion without features"),
    ("Adaptive DeepInversion", "DeepInversion"),
    ("fast-5", "fast-5 with fresh generator"),
    ("DFAD", "DFAD with frozen generator"),
    ("shaders", "noise"),
    ("fast-5", "shaders"),
)


def arms(contract: InputContract) -> dict[str, Arm]:
    """Return every arm by name."""
    mild = shifts_and_flips(contract)
    scale = Scale(
        width=WIDTH,
        batch_size=BATCH,
        inversion={"features": "1", **SEARCH},
        optimisation=SEARCH,
        pools=POOLS,
        shown=mild,
    )
    bare = ("augmentation", "mixup", "attack")
    real = Augmented(source=Surrogate(data=str(cifar10_folder())), augmentation=mild)
    made = [
        Arm(name="real", base=real, without=PARTS),
        Arm(name="shaders", without=bare),
        Arm(name="noise", base=Noise(), without=bare),
        *method_arms(scale),
    ]
    return {arm.name: arm for arm in made}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at", choices=("seconds", "passes"), default="seconds")
    parser.add_argument("--arms", nargs="+", default=ARMS, help="by name")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--passes", type=float, default=PASSES)
    parser.add_argument("--name", default="sources_cifar10", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    reference, teacher = public_teacher()
    known = arms(teacher.contract)
    unknown = [name for name in given.arms if name not in known]
    if unknown:
        parser.error(f"no such arms: {', '.join(unknown)}; known: {', '.join(known)}")
    setting = Setting(
        teacher=reference,
        student="builtin/resnet8",
        batch_size=BATCH,
        assignments={"pool_size": str(POOL)},
    )
    test = open_data(cifar10_folder(), teacher.contract, split="test")
    told = {"pair": "resnet20 -> resnet8", "batch_size": BATCH, "generator_width": WIDTH}
    told |= {"machines": MACHINES, "pools": POOLS, **SEARCH}
    table = Table(given.name, __doc__.splitlines()[0], told)
    asked = Length(getattr(given, given.at), given.at)
    gauge = Gauge(GAUGED)
    gauge.learn_from(table)
    for seed in given.seeds:
        chosen = [known[name] for name in given.arms]
        fill(table, chosen, setting, (teacher, test), seed, asked, gauge)
    close(table, HELD_AGAINST)


if __name__ == "__main__":
    main()
