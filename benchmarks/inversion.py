"""What does another network recognise in images inverted from one, and what did they cost?

Images are made from the public ResNet-56 on CIFAR-10 with intended labels, and judged by the public
ResNet-20, which had no part in them. Arms: DeepInversion, the image prior alone, inceptionism,
BatchNorm statistics with and without labels, Gaussian noise, and real images as the bound. Every
optimised arm has the same number of iterations on one batch. DeepInversion's statistics weigh 1,
the least of the published weights: at 10, a few hundred iterations leave images that the network
which was inverted does not itself call by their labels. `feature_distance` is that of DeepInversion
at that network, of the images as bytes.

    DOUBLURE_DATA=... python benchmarks/inversion.py --seeds 0 1 2 [--iterations 300] [--arms ...]
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch

from doublure.core.protocols import Batch, Source, StreamContext
from doublure.core.seeding import child, from_seed
from doublure.data.datasets import open_data
from doublure.engine.run_options import find_device
from doublure.nets.batchnorm_statistics import (
    MomentsRecorder,
    batchnorm_kl,
    feature_statistics_loss,
    stored_statistics,
)
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.sources.deep_inversion import DeepInversion
from doublure.sources.image_optimisation import ImageOptimisation
from doublure.sources.knowledge_within import COMBINED, BatchNormStatistics, Inceptionism
from doublure.sources.noise import Noise
from experiments import RESULTS, versions
from real_data import cifar10_folder, data_folder

CHECKPOINTS = {"resnet56": "resnet56-4bfd9763.th", "resnet20": "resnet20-12fca82f.th"}
NAME = "inversion_cifar10"


def arms(iterations: int) -> dict[str, Source | None]:
    """Return every arm by name; None stands for real images."""
    optimisation = ImageOptimisation(iterations=iterations, learning_rate=0.1, clamp=True)
    found: dict[str, Source] = {
        "DeepInversion": DeepInversion(features=1.0, optimisation=optimisation),
        "image prior alone": DeepInversion(
            features=0.0, total_variation=1e-3, optimisation=optimisation
        ),
        "inceptionism": Inceptionism(optimisation=optimisation),
        "BNS": BatchNormStatistics(optimisation=optimisation),
        "BNS+I": dataclasses.replace(COMBINED, optimisation=optimisation),
        "noise": Noise(),
    }
    return {**found, "real": None}


def public(name: str) -> Network:
    """Return a public checkpoint, frozen."""
    network = load(
        NetworkRef(
            ref=f"builtin/{name}",
            weights=str(data_folder() / "cifar10-resnet" / CHECKPOINTS[name]),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            classes=10,
        )
    )
    frozen = freeze(network)
    assert isinstance(frozen, Network)
    return frozen


def real_batch(teacher: Network, count: int, seed: int) -> Batch:
    """Return labelled images of the training split."""
    data = open_data(cifar10_folder(), teacher.contract, split="train", labels=True)
    assert data.labels is not None
    picks = torch.randperm(len(data), generator=from_seed(seed))[:count]
    images = data.images(picks).float() / 255
    return Batch(views={"student": images, "teacher": images}, labels=data.labels[picks])


def distances(teacher: Network, images: torch.Tensor) -> dict[str, float]:
    """Return how far the statistics of the images are from those stored."""
    known = stored_statistics(teacher)
    with torch.no_grad(), MomentsRecorder(teacher, known) as recorder:
        teacher(images)
        seen = recorder.read()
    return {
        "feature_distance": feature_statistics_loss(seen, known, 1.0).item(),
        "divergence": batchnorm_kl(seen, known).item(),
    }


def recognised(network: Network, images: torch.Tensor, labels: torch.Tensor | None) -> float | None:
    """Return the share of images that a network calls by their labels, where they have any."""
    if labels is None:
        return None
    with torch.no_grad():
        return (network(images).argmax(-1) == labels.to(images.device)).float().mean().item()


def run_arm(
    name: str, source: Source | None, inverted: Network, judge: Network, count: int, seed: int
) -> dict[str, Any]:
    """Make one batch and return its row."""
    device = next(inverted.parameters()).device
    context = StreamContext(contract=inverted.contract, device=device, batch_size=count, steps=1)
    start = time.perf_counter()
    if source is None:
        batch = real_batch(inverted, count, seed)
    else:
        stream = source.open(context, inverted, child(from_seed(seed), "source"))
        batch = stream.draw(0, None)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    labels = batch.labels
    if isinstance(source, Noise):  # what it would score by chance
        labels = torch.arange(count) % inverted.contract.classes
    images = (batch.images.to(device) * 255).round() / 255
    passes = batch.metrics.get("image_passes", torch.zeros(()))
    return {
        "arm": name,
        "seed": seed,
        "judge_accuracy": recognised(judge, images, labels),
        "own_accuracy": recognised(inverted, images, labels),
        **distances(inverted, images),
        "image_passes": passes.item(),
        "seconds": seconds,
    }


def summary(rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and spread over the seeds of each arm."""
    made = []
    for name in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == name]
        line: dict[str, Any] = {"arm": name, "seeds": len(of_arm)}
        for figure in ("judge_accuracy", "own_accuracy", "feature_distance", "divergence"):
            values = [row[figure] for row in of_arm if row[figure] is not None]
            line[figure] = statistics.mean(values) if values else None
            line[f"{figure}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        line |= {key: of_arm[0][key] for key in ("image_passes",)}
        line["seconds"] = statistics.mean(row["seconds"] for row in of_arm)
        made.append(line)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", default=NAME, help="of the results file")
    parser.add_argument("--arms", nargs="+", default=list(arms(1)), choices=list(arms(1)))
    asked = parser.parse_args()
    path = RESULTS / f"{asked.name}.json"
    setting = {"iterations": asked.iterations, "count": asked.count}
    rows: list[Mapping[str, Any]] = []
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["setting"] != setting:
            raise SystemExit(f"{path} holds another setting ({held['setting']}); use --name")
        rows = held["rows"]
    device = find_device(asked.device)
    inverted, judge = (public(name).to(device) for name in CHECKPOINTS)
    for seed in asked.seeds:
        for name in asked.arms:
            if any((row["arm"], row["seed"]) == (name, seed) for row in rows):
                continue
            source = arms(asked.iterations)[name]
            rows.append(run_arm(name, source, inverted, judge, asked.count, seed))
            print(json.dumps(rows[-1]), flush=True)
            whole = {
                "question": __doc__.splitlines()[0],
                "versions": versions() | {"device": str(device)},
                "setting": setting,
                "arms": summary(rows),
                "rows": rows,
            }
            path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
