"""What are images after a few steps from shaders, against many from noise, and what do they cost?

One batch of images is made from one public network on CIFAR-10 and judged by the other, which had
no part in it: ResNet-56 inverted and ResNet-20 asked, and the other way round. Arms: short
inversion of 5, 15 and 30 iterations, from noise, without mixing, with more cross-entropy, by labels
alone, and in bfloat16; DeepInversion of 25 to 2000 iterations from noise; matched shader images
with labels assigned to them as short inversion does, noise, and real images as the bound.
DeepInversion's statistics weigh 1, for the reason that is told in inversion.py. Passes are of each
image through the network inverted, forward and backward apart; seconds are the processor's, of one
thread.

    DOUBLURE_DATA=... python benchmarks/short_inversion.py --seeds 0 1 2 [--arms ...]
    DOUBLURE_DATA=... python benchmarks/short_inversion.py --cost

With --cost, what one iteration takes in multiples of the network's answer to the same batch, with
BatchNorm folded and not, in both precisions, each the least of several, all in one process.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from doublure.core.protocols import Batch, Source, StreamContext, image_batch
from doublure.core.seeding import child, from_seed
from doublure.nets.batchnorm_statistics import MomentsRecorder, batchnorm_kl, stored_statistics
from doublure.nets.features import FeatureRecorder
from doublure.nets.folding import fold_with_statistics
from doublure.nets.memory_format import to_channels_last_
from doublure.nets.network import Network
from doublure.sources.deep_inversion import DeepInversion
from doublure.sources.image_optimisation import ImageOptimisation
from doublure.sources.inversion import labels_in_turn
from doublure.sources.noise import Noise
from doublure.sources.short_inversion import ShortInversion, assign_labels, matched_shaders
from experiments import RESULTS, versions
from inversion import distances, public, real_batch, recognised

NAME = "short_inversion"
# Inverted, and asked what it recognises.
PAIRS = {"resnet56 -> resnet20": ("resnet56", "resnet20")}
PAIRS["resnet20 -> resnet56"] = ("resnet20", "resnet56")
FIGURES = (
    *("judge_accuracy", "own_accuracy", "feature_distance", "divergence", "passes"),
    "seconds_per_image",
)
REPEATS = 5
NOT_RUN = "not run"


def deep(iterations: int) -> Source:
    """Return inversion from noise of so many iterations."""
    optimisation = ImageOptimisation(iterations=iterations, learning_rate=0.1, clamp=True)
    return DeepInversion(features=1.0, optimisation=optimisation)


ARMS: dict[str, Source | None] = {
    "real": None,
    "short inversion, 30 iterations": ShortInversion(iterations=30),
    "short inversion": ShortInversion(),
    "short inversion, 5 iterations": ShortInversion(iterations=5),
    "short inversion in bfloat16": ShortInversion(precision="bfloat16"),
    "short inversion without mixing": ShortInversion(mixing=0.0),
    "short inversion, cross-entropy 0.3": ShortInversion(cross_entropy=0.3),
    "short inversion by labels alone": ShortInversion(features=0.0),
    "short inversion from noise": ShortInversion(source=Noise()),
    "DeepInversion, 2000 iterations": deep(2000),
    "DeepInversion, 300 iterations": deep(300),
    "DeepInversion, 100 iterations": deep(100),
    "DeepInversion, 25 iterations": deep(25),
    "matched shaders": matched_shaders(),
    "noise": Noise(),
}


def drawn(source: Source, inverted: Network, context: StreamContext, seed: int) -> Batch:
    """Return one batch of a source; what has no labels is given some."""
    batch = source.open(context, inverted, child(from_seed(seed), "source")).draw(0, None)
    if batch.labels is not None:
        return batch
    dealt = labels_in_turn(0, context.batch_size, context.contract.classes, from_seed(seed))
    with torch.no_grad():
        likely = inverted(batch.images).log_softmax(-1)
    labels = dealt if isinstance(source, Noise) else assign_labels(likely, dealt)
    return image_batch(batch.images, labels=labels)


def passes_of(batch: Batch) -> float:
    """Return how often each image went through the network that was inverted."""
    if "image_passes" in batch.metrics:  # of the batch, forward and backward as one
        return 2 * batch.metrics["image_passes"].item() / len(batch.images)
    return batch.metrics.get("teacher_passes", torch.zeros(())).item()


def run_arm(pair: str, arm: str, networks: Mapping[str, Network], count: int, seed: int) -> Any:
    """Make one batch and return its row."""
    inverted, judge = (networks[name] for name in PAIRS[pair])
    source = ARMS[arm]
    context = StreamContext(
        contract=inverted.contract, device=torch.device("cpu"), batch_size=count, steps=1
    )
    begun = time.process_time()
    batch = (
        real_batch(inverted, count, seed)
        if source is None
        else drawn(source, inverted, context, seed)
    )
    seconds = time.process_time() - begun
    images = (batch.images * 255).round() / 255
    return {
        "pair": pair,
        "arm": arm,
        "seed": seed,
        "judge_accuracy": recognised(judge, images, batch.labels),
        "own_accuracy": recognised(inverted, images, batch.labels),
        **distances(inverted, images),
        "passes": passes_of(batch),
        "seconds_per_image": seconds / count,
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and spread over the seeds of each arm; of one not run, how many seeds: 0."""
    made = []
    for pair in PAIRS:
        for arm in ARMS:
            of_arm = [row for row in rows if (row["pair"], row["arm"]) == (pair, arm)]
            line: dict[str, Any] = {"pair": pair, "arm": arm, "seeds": len(of_arm)}
            for figure in FIGURES if of_arm else ():
                values = [row[figure] for row in of_arm]
                line[figure] = statistics.mean(values)
                line[f"{figure}_sd"] = statistics.stdev(values) if len(values) > 1 else None
            made.append(line)
    return made


def costs(name: str, count: int) -> dict[str, Any]:
    """Return what one iteration takes, in multiples of the network's answer in float32."""
    network = public(name)
    to_channels_last_(network)
    folded, mapped = fold_with_statistics(network, network.contract)
    assert isinstance(folded, Network)
    images = torch.rand(count, 3, *network.contract.size, generator=from_seed(0))
    measured: dict[str, Callable[[], None]] = {}
    for precision in ("float32", "bfloat16"):
        for told, asked, stored in (
            ("", network, stored_statistics(network.body)),
            (", folded", folded, mapped),
        ):
            recorder = FeatureRecorder(asked, (), precision)
            measured[f"answer, {precision}{told}"] = lambda recorder=recorder: _answer(
                recorder, images
            )
            measured[f"iteration, {precision}{told}"] = lambda recorder=recorder, stored=stored: (
                _iteration(recorder, stored, images)
            )
    least = dict.fromkeys(measured, float("inf"))
    for _ in range(REPEATS):
        for what, work in measured.items():
            begun = time.process_time()
            work()
            least[what] = min(least[what], time.process_time() - begun)
    unit = least["answer, float32"]
    return {"network": name, "batch_size": count} | {w: s / unit for w, s in least.items()}


@torch.no_grad()
def _answer(recorder: FeatureRecorder, images: Tensor) -> None:
    recorder.record(images)


def _iteration(recorder: FeatureRecorder, stored: Mapping[str, Any], images: Tensor) -> None:
    """Ask for the divergence and its gradient, as each iteration does."""
    assert isinstance(recorder.network, Network)
    seen = images.clone().requires_grad_()
    with MomentsRecorder(recorder.network.body, stored) as recorder:
        recorder.record(seen)
        torch.autograd.grad(batchnorm_kl(recorder.read(), stored), seen)


def write(rows: Sequence[Mapping[str, Any]], setting: dict[str, Any], cost: Sequence[Any]) -> None:
    """Write all there is to the results file."""
    whole = {
        "question": __doc__.splitlines()[0],
        "versions": versions(),
        "setting": setting,
        "arms": summary(rows),
        "cost": cost,
        "rows": rows,
    }
    path = RESULTS / f"{NAME}.json"
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def print_arms(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print every arm of every pair."""
    for line in summary(rows):
        told = f"{line['pair']}  {line['arm']:36s}"
        if not line["seeds"]:
            print(told, NOT_RUN)
            continue
        shares = f"judge {line['judge_accuracy']:.1%}  own {line['own_accuracy']:.1%}"
        apart = f"R_feat {line['feature_distance']:.0f}  KL {line['divergence']:.3f}"
        price = f"{line['passes']:.0f} passes  {1000 * line['seconds_per_image']:.0f} ms"
        print(f"{told} {shares}  {apart}  {price}  ({line['seeds']} seeds)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--cost", action="store_true", help="measure what an iteration takes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path, setting = RESULTS / f"{NAME}.json", {"count": asked.count}
    rows: list[Mapping[str, Any]] = []
    cost: list[Any] = []
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["setting"] != setting:
            raise SystemExit(f"{path} holds another setting ({held['setting']}); move it away")
        rows, cost = held["rows"], held["cost"]
    if asked.cost:
        cost = [costs(name, 128) for name in ("resnet20", "resnet56")]
        print(json.dumps(cost, indent=1))
        write(rows, setting, cost)
        return
    networks = {name: public(name) for name in ("resnet20", "resnet56")}
    for network in networks.values():
        to_channels_last_(network)
    for pair in asked.pairs:
        for seed in asked.seeds:
            for arm in asked.arms:
                key = (pair, arm, seed)
                if any((row["pair"], row["arm"], row["seed"]) == key for row in rows):
                    continue
                rows.append(run_arm(pair, arm, networks, asked.count, seed))
                print(json.dumps(rows[-1]), flush=True)
                write(rows, setting, cost)
    print_arms(rows)


if __name__ == "__main__":
    main()
