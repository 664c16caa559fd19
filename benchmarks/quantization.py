"""What do calibration images matter to post-training quantization on CIFAR-10?

The public ResNet-20 and ResNet-56, 256 images that calibrate: real ones, synthetic ones of each
kind there is, noise. Rounding weights alone is the upper bound of what calibration can save. No
step of training. Over seeds, which draw the images; the whole JPEG test split judges. Images are
made once for each network, kind and seed, and kept; those that are optimised take the iterations
named below, fewer for the larger network.

With --tune the network is then taught, W4A4, with rounded weights and on its calibration images,
BatchNorm frozen and moving: rows of a table of their own name.

    DOUBLURE_DATA=... python benchmarks/quantization.py --seeds 0 1 2 --nets resnet20
    DOUBLURE_DATA=... python benchmarks/quantization.py --tune --nets resnet20 \\
        --name quantization_tuned
"""

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

import torch

from doublure.compress.post_training_quantization import PostTrainingQuantization
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, Part, batches, open_data
from doublure.engine.distill import transform
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.sources.surrogate import Surrogate
from doublure.verbs.quantize import quantize
from doublure.verbs.synthesize import synthesize
from experiments import Table, clock, print_table, summarize
from real_data import cifar10_folder, data_folder, scratch_folder

BITS = {"W8A8": (8, 8), "W6A6": (6, 6), "W4A8": (4, 8), "W4A4": (4, 4)}
IMAGES = 256
ITERATIONS = {"resnet20": 500, "resnet56": 150}
WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
DRAWN = ("shaders", "leaves", "noise")
OPTIMISED = ("batch-norm-statistics", "inceptionism", "deep-inversion")
WEIGHTS_ONLY, REAL = "weights only", "real"
ARMS = (WEIGHTS_ONLY, REAL, *DRAWN, *OPTIMISED)
# What a network with rounded weights learns from, with BatchNorm frozen and moving.
TUNED = (REAL, "shaders", "batch-norm-statistics")


def images_of(arm: str, reference: NetworkRef, seed: int) -> Surrogate:
    """Return the images that calibrate, made now unless they are there already."""
    iterations = ITERATIONS[reference.ref.removeprefix("builtin/")]
    fields = {"iterations": str(iterations)} if arm in OPTIMISED else {}
    # Weights alone are rounded alike whatever is shown.
    real = Surrogate(data=str(cifar10_folder()))
    source = real if arm in (WEIGHTS_ONLY, REAL) else arm
    made = f"{reference.ref.replace('/', '-')}-{arm}-{seed}"
    folder = scratch_folder() / "calibration" / "-".join((made, *fields.values()))
    synthesize(
        source, count=IMAGES, out=folder, teacher=reference, seed=seed, set=fields, resume=True
    )
    return Surrogate(data=str(folder), held_out=0.0)


def run(
    network: Network,
    source: Surrogate,
    rounding: PostTrainingQuantization,
    test: Dataset,
    seed: int,
    known: torch.Tensor,
) -> dict[str, Any]:
    """Return the row of one quantized network.

    Args:
        known: what the network itself calls the test images.
    """
    began = clock()
    made = transform(
        network,
        network,
        rounding,
        source,
        contract=network.contract,
        num_images=IMAGES,
        rng=from_seed(child_seed(seed, "calibration")),
    )
    seconds = clock() - began
    called = answers(made, test)
    correct = int((called == labels_of(test)).sum())
    same = int((called == known).sum())
    return {
        "accuracy": correct / len(test),
        "correct": correct,
        "count": len(test),
        "agreement": same / len(test),
        "seconds": seconds,
        "steps": 0,
    }


def tune(
    reference: NetworkRef,
    arm: str,
    test: Dataset,
    seed: int,
    known: torch.Tensor,
    *,
    moving: bool,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Return the row of a W4A4 network that was taught with rounded weights.

    Every arm learns from the images it was calibrated on, but for the tenth that is held out.

    Args:
        moving: BatchNorm takes the statistics of what is shown, in place of keeping its own.
    """
    images = images_of(arm, reference, seed).data
    began = clock()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        quantize(
            reference,
            calibration=images,
            weight_bits=4,
            activation_bits=4,
            calibration_method="mse",
            transfer=images,
            train_batchnorm=moving,
            steps=given.steps,
            seed=seed,
            device="cpu",
            audit=False,
            out=out,
        )
        called = answers(load(str(out)), test)
    correct = int((called == labels_of(test)).sum())
    return {
        "accuracy": correct / len(test),
        "correct": correct,
        "count": len(test),
        "agreement": int((called == known).sum()) / len(test),
        "seconds": clock() - began,
        "steps": given.steps,
    }


def add_tuned(
    table: Table,
    net: str,
    reference: NetworkRef,
    test: Dataset,
    seed: int,
    known: torch.Tensor,
    given: argparse.Namespace,
) -> None:
    """Add the rows of one network and seed that are not there yet."""
    for arm, moving in itertools.product(TUNED, (False, True)):
        at = f"{net} W4A4 mse, {given.steps} steps, BatchNorm {'moving' if moving else 'frozen'}"
        if table.has(at=at, arm=arm, seed=seed):
            continue
        row = tune(reference, arm, test, seed, known, moving=moving, given=given)
        table.add({"at": at, "arm": arm, "seed": seed, **row}, ("at", "arm"))
        print(f"{at} {arm} seed {seed}: {row['accuracy']:.2%}", flush=True)


@torch.no_grad()
def answers(network: torch.nn.Module, test: Dataset) -> torch.Tensor:
    """Return the class that a network names for every image."""
    network.eval()
    return torch.cat([network(pixels.float() / 255).argmax(1) for pixels, _ in batches(test, 500)])


def labels_of(test: Dataset) -> torch.Tensor:
    """Return the labels of a test split."""
    assert test.labels is not None
    return test.labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--bits", nargs="+", choices=BITS, default=list(BITS))
    parser.add_argument("--clips", nargs="+", default=["minmax", "mse"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tune", action="store_true", help="teach W4A4, in place of calibrating")
    parser.add_argument("--steps", type=int, default=300, help="of --tune")
    parser.add_argument("--count", type=int, help="of test images; all of them by default")
    parser.add_argument("--name", default="quantization", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = {"calibration_images": IMAGES, "iterations": ITERATIONS}
    table = Table(given.name, __doc__.splitlines()[0], setting)
    for net, seed in itertools.product(given.nets, given.seeds):
        reference = NetworkRef(
            ref=f"builtin/{net}",
            weights=str(data_folder() / "cifar10-resnet" / WEIGHTS[net]),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            classes=10,
        )
        network = load(reference).eval()
        test = open_data(cifar10_folder(), network.contract, split="test")
        if given.count is not None:
            places = torch.randperm(len(test), generator=from_seed(0))[: given.count]
            test = Part(whole=test, places=places)
        known = answers(network, test)
        if given.tune:
            add_tuned(table, net, reference, test, seed, known, given)
            continue
        for arm, bits, calibration_method in itertools.product(
            given.arms, given.bits, given.calibration_methods
        ):
            at = f"{net} {bits} {calibration_method}"
            # Weights know no chance.
            known_already = arm == WEIGHTS_ONLY and seed != given.seeds[0]
            if known_already or table.has(at=at, arm=arm, seed=seed):
                continue
            weights, activations = BITS[bits]
            rounding = PostTrainingQuantization(
                weight_bits=weights,
                activation_bits=32 if arm == WEIGHTS_ONLY else activations,
                calibration_method=calibration_method,
            )
            images = images_of(arm, reference, seed)
            row = run(network, images, rounding, test, seed, known)
            table.add({"at": at, "arm": arm, "seed": seed, **row}, ("at", "arm"))
            print(f"{at} {arm} seed {seed}: {row['accuracy']:.2%}", flush=True)
    print_table(summarize(table.rows, ("at", "arm")))


if __name__ == "__main__":
    main()
