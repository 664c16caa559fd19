"""What is each part of the shader recipe worth on CIFAR-10, against noise, leaves and real images?

Teacher: the public ResNet-20 (81.0 % on the JPEG test split). Student: ResNet-8, from scratch; or,
with --pair, the public ResNet-56 (83.2 %) and a ResNet-20, in a table of their own. Arms run at
equal steps and at equal time of the one thread that each has, within 3 %; the arms that carry the
claim over three seeds, the others once, marked by their count.

    DOUBLURE_DATA=... python benchmarks/cifar10.py --at steps --seeds 0 1 2 --arms full noise ...
"""

import argparse

import torch

from doublure.data.datasets import open_data
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipes import PARTS
from doublure.sources.leaves import Leaves
from doublure.sources.noise import Noise
from doublure.sources.surrogate import Surrogate
from experiments import Arm, Setting, Table, print_table, summarize
from methods import Gauge, Length, fill
from real_data import cifar10_folder, data_folder

STEPS, SECONDS = 1500, 300.0
PAIRS = {"resnet20 -> resnet8": "cifar10", "resnet56 -> resnet20": "cifar10_resnet56"}
CHECKPOINTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
BATCH, POOL = 128, 20_000
# Steps of the first runs at equal time, which tell what steps cost.
GAUGED = 200


def arms() -> dict[str, Arm]:
    """Return every arm by name."""
    real = Surrogate(data=str(cifar10_folder()))
    made = [
        Arm(name="full"),
        Arm(name="bare shaders", without=("augmentation", "mixup", "attack")),
        Arm(name="noise", base=Noise(), without=("attack",)),
        Arm(name="noise + attack", base=Noise()),
        Arm(name="leaves", base=Leaves()),
        Arm(name="real", base=real, without=("balance", "matching", "attack", "mixup")),
        *(Arm(name=f"full - {part}", without=(part,)) for part in PARTS),
    ]
    return {arm.name: arm for arm in made}


def public_teacher(name: str = "resnet20") -> tuple[NetworkRef, Network]:
    """Return a public network and how it is named."""
    reference = NetworkRef(
        ref=f"builtin/{name}",
        weights=str(data_folder() / "cifar10-resnet" / CHECKPOINTS[name]),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        classes=10,
    )
    return reference, load(reference)


def main() -> None:
    known = arms()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at", choices=("steps", "seconds"), default="steps")
    parser.add_argument("--arms", nargs="+", choices=known, default=list(known))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--pair", choices=PAIRS, default=next(iter(PAIRS)))
    parser.add_argument("--name", help="of the results file, in place of the pair's")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    of_teacher, of_student = given.pair.split(" -> ")
    reference, teacher = public_teacher(of_teacher)
    setting = Setting(
        teacher=reference,
        student=f"builtin/{of_student}",
        batch_size=BATCH,
        assignments={"pool_size": str(POOL)},
    )
    test = open_data(cifar10_folder(), teacher.contract, split="test")
    told = {"pair": given.pair, "batch_size": BATCH, "pool_size": POOL}
    table = Table(given.name or PAIRS[given.pair], __doc__.splitlines()[0], told)
    asked = Length(getattr(given, given.at), given.at)
    gauge = None if given.at == "steps" else Gauge(GAUGED)
    if gauge is not None:
        gauge.learn_from(table)
    for seed in given.seeds:
        chosen = [known[name] for name in given.arms]
        fill(table, chosen, setting, (teacher, test), seed, asked, gauge)
    print_table(summarize(table.rows, ("at", "arm")))


if __name__ == "__main__":
    main()
