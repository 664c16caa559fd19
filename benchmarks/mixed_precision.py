"""Bits chosen for each layer against the same bits everywhere, at equal size and without labels.

The sensitivity of each layer is measured once a seed on 128 shader images matched to the network's
BatchNorm statistics; every search minimises the same sum within the same size. Weights and inputs
of a layer have equal bits, ranges are static. "uniform" gives all layers the same bits, where the
target is a whole number; "random" is the mean of five policies drawn from those that fit.
Accuracy is of the report half of the test split; nothing was chosen by it.

    DOUBLURE_DATA=... python benchmarks/mixed_precision.py --nets resnet20 --seeds 0 1 2
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cifar10 import public_teacher
from doublure.compress.choosing_bits import behind_wall, choose_bits, total
from doublure.compress.mixed_precision import MixedPrecision, costs, layer_features
from doublure.compress.sensitivity import Sensitivity, measure_sensitivity
from doublure.core.protocols import StreamContext, image_batch
from doublure.core.seeding import child, child_seed, from_seed
from doublure.data.datasets import Dataset, Part, open_data
from doublure.nets.network import Network
from doublure.sources.matched import Matched
from doublure.sources.shaders import Shaders
from doublure.tasks.classification.evaluation import evaluate
from experiments import RESULTS, clock, provenance, versions
from real_data import cifar10_folder

TARGETS = (3.5, 4.0, 4.5, 5.0)
SEARCHES = ("milp", "greedy", "optuna", "rl")
IMAGES, DRAWN, JUDGED = 128, 5, 2000
SETTINGS = MixedPrecision()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["resnet20"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=SEARCHES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "mixed_precision.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    head = {"question": __doc__.splitlines()[0], "versions": versions()}
    head["setting"] = {"images": IMAGES, "bits": list(SETTINGS.bits), "judged_on": JUDGED}
    for net in given.nets:
        network = public_teacher(net)[1].eval()
        for seed in given.seeds:
            there = {(r["target"], r["arm"]) for r in rows if (r["net"], r["seed"]) == (net, seed)}
            for row in arms(network, seed, given.searches, there):
                rows.append(provenance() | {"net": net, "seed": seed} | row)
                whole = head | {"rows": rows}
                path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
                told = f"{row['accuracy']:.2%}, {row['search_seconds']:.2f} s"
                print(f"{net} seed {seed} {row['target']} bits {row['arm']}: {told}", flush=True)


def arms(
    network: Network, seed: int, searches: Sequence[str], there: set[tuple[float, str]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one seed that are not there yet."""
    rng = from_seed(seed)
    images = images_of(network, rng)
    judged = report_half(network)
    began = clock()
    found = measure_sensitivity(network, images, SETTINGS.bits, SETTINGS.quantization)
    measured = clock() - began
    for target in TARGETS:
        cost, budget = costs(network, found, f"{target}bits", images[:1])
        wanted = [name for name in searches if (target, name) not in there]
        for name in wanted:
            began = clock()
            choice = choose_bits(
                found.divergence, cost, budget, name, seed=seed, trials=SETTINGS.trials,
                features=layer_features(found),
            )  # fmt: skip
            spent = clock() - began
            yield row(network, found, images, judged, target, name, [choice], cost, spent, measured)
        if target in SETTINGS.bits and (target, "uniform") not in there:
            same = (SETTINGS.bits.index(int(target)),) * len(found.layers)
            yield row(network, found, images, judged, target, "uniform", [same], cost, 0.0, 0.0)
        if (target, "random") not in there:
            drawn = []
            for _ in range(DRAWN):
                places = torch.randint(len(SETTINGS.bits), (len(found.layers),), generator=rng)
                drawn.append(behind_wall(places.tolist(), cost, budget))
            yield row(network, found, images, judged, target, "random", drawn, cost, 0.0, 0.0)


def row(
    network: Network,
    found: Sensitivity,
    images: Tensor,
    judged: Dataset,
    target: float,
    arm: str,
    choices: Sequence[Sequence[int]],
    cost: Tensor,
    spent: float,
    measured: float,
) -> dict[str, Any]:
    """Return the row of an arm: the mean over its policies."""
    accuracies = []
    for choice in choices:
        pairs = zip(found.layers, choice, strict=True)
        layer_bits = tuple(f"{name}={SETTINGS.bits[place]}" for name, place in pairs)
        quantization = replace(SETTINGS.quantization, layer_bits=layer_bits)
        made = quantization(network, [image_batch(images)], from_seed(0))
        accuracies.append(evaluate(made, judged).accuracy)
    weights = found.weights.sum().item()
    return {
        "target": target, "arm": arm, "accuracy": statistics.mean(accuracies),
        "mean_bits": statistics.mean(total(cost, choice) / weights for choice in choices),
        "harm": statistics.mean(total(found.divergence, choice) for choice in choices),
        "search_seconds": spent, "sensitivity_seconds": measured,
    }  # fmt: skip


def images_of(network: Network, rng: torch.Generator) -> Tensor:
    """Return shader images matched to the network's statistics."""
    context = StreamContext(
        contract=network.contract, device=torch.device("cpu"), batch_size=IMAGES, steps=1
    )
    stream = Matched(source=Shaders()).open(context, network, child(rng, "images"))
    return stream.draw(0, None).images


def report_half(network: Network) -> Dataset:
    """Return images of the half of the test split that figures are reported of."""
    test = open_data(str(cifar10_folder()), network.contract, split="test", labels=True)
    assert test.labels is not None
    order = torch.randperm(len(test), generator=from_seed(child_seed(0, "halves")))
    return Part(whole=test, places=order[:JUDGED].sort().values)


if __name__ == "__main__":
    main()
