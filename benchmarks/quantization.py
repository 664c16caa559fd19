"""What do calibration images matter to post-training quantization on CIFAR-10?

The public ResNet-20 and ResNet-56, 256 images that calibrate: real ones, synthetic ones of each
kind there is, noise. Rounding weights alone is the upper bound of what calibration can save. No
step of training. Over seeds, which draw the images; the whole JPEG test split judges.

    UNDERSTUDY_DATA=... python benchmarks/quantization.py --seeds 0 1 2 --nets resnet20
"""

import argparse
import time
from typing import Any

import torch

from experiments import Table, print_table, summarize
from real_data import cifar10_folder, data_folder
from understudy import catalogue
from understudy.audits.evaluation import evaluate
from understudy.compress.post_training_quantization import PostTrainingQuantization
from understudy.data.datasets import Dataset, Part, batches, open_data
from understudy.loading import load
from understudy.nets.network import Network
from understudy.nets.references import NetworkRef
from understudy.protocols import InputContract, Source
from understudy.seeding import child_seed, from_seed
from understudy.sources.surrogate import Surrogate
from understudy.spine import transform
from understudy.verbs.naming import source_named

BITS = ((8, 8), (6, 6), (4, 8), (4, 4))
IMAGES = 256
WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
# Kinds of the catalogue; those that are not there are left out.
KINDS = ("shaders", "leaves", "noise", "batch-norm-statistics", "inceptionism", "deep-inversion")
WEIGHTS_ONLY = "weights only"


def sources(contract: InputContract) -> dict[str, Source | None]:
    """Return what calibrates, by arm; None rounds weights alone."""
    there = {entry.name for entry in catalogue.SOURCES}
    made: dict[str, Source | None] = {WEIGHTS_ONLY: None}
    made["real"] = Surrogate(data=str(cifar10_folder()))
    for kind in KINDS:
        if kind in there:
            made[kind] = source_named(kind, contract=contract)
    return made


def run(
    network: Network,
    source: Source | None,
    weight_bits: int,
    activation_bits: int,
    clip: str,
    test: Dataset,
    seed: int,
) -> dict[str, Any]:
    """Return the row of one quantized network."""
    began = time.perf_counter()
    rounding = PostTrainingQuantization(
        weight_bits=weight_bits,
        activation_bits=32 if source is None else activation_bits,
        clip=clip,  # type: ignore[arg-type]
    )
    made = transform(
        network,
        network,
        rounding,
        source or Surrogate(data=str(cifar10_folder())),
        contract=network.contract,
        num_images=IMAGES,
        rng=from_seed(child_seed(seed, "calibration")),
    )
    seconds = time.perf_counter() - began
    score = evaluate(made, test)
    return {
        "accuracy": score.accuracy,
        "correct": score.correct,
        "count": score.count,
        "agreement": agreement(made, network, test),
        "seconds": seconds,
        "steps": 0,
    }


@torch.no_grad()
def agreement(made: torch.nn.Module, network: Network, test: Dataset) -> float:
    """Return the share of test images that both networks call the same."""
    same = 0
    for pixels, _ in batches(test, 256):
        images = pixels.float() / 255
        same += int((made(images).argmax(1) == network(images).argmax(1)).sum())
    return same / len(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--arms", nargs="+", help="all by default")
    parser.add_argument("--clips", nargs="+", default=["minmax", "mse"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, help="of test images; all of them by default")
    parser.add_argument("--name", default="quantization", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(given.name, __doc__.splitlines()[0], {"calibration_images": IMAGES})
    for net in given.nets:
        reference = NetworkRef(
            ref=f"builtin/{net}",
            weights=str(data_folder() / "cifar10-resnet" / WEIGHTS[net]),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            classes=10,
        )
        network = load(reference).eval()
        known = sources(network.contract)
        test = open_data(cifar10_folder(), network.contract, split="test")
        if given.count is not None:
            places = torch.randperm(len(test), generator=from_seed(0))[: given.count]
            test = Part(whole=test, places=places)
        for weight_bits, activation_bits in BITS:
            for clip in given.clips:
                at = f"{net} W{weight_bits}A{activation_bits} {clip}"
                for arm in given.arms or known:
                    # Weights know no chance.
                    for seed in given.seeds[:1] if arm == WEIGHTS_ONLY else given.seeds:
                        if table.has(at=at, arm=arm, seed=seed):
                            continue
                        row = run(
                            network, known[arm], weight_bits, activation_bits, clip, test, seed
                        )
                        table.add({"at": at, "arm": arm, "seed": seed, **row}, ("at", "arm"))
                        print(f"{at} {arm} seed {seed}: {row['accuracy']:.2%}", flush=True)
    print_table(summarize(table.rows, ("at", "arm")))


if __name__ == "__main__":
    main()
