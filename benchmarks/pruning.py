"""How much of a network can go without its data, and what brings back what was lost?

CIFAR-10: the public ResNet-20. Digits: a ConvNet of width 16, trained here for every seed. A fifth,
a third and half of the filters go by Taylor importance, judged on the images that the network then
recovers on (none, noise, shaders, inversion where it is there, real ones), all at equal steps; and
by chance, as a control, recovering on real images and on shaders. Speed is a ratio to the unpruned
network, both timed in turn in one process.

    DOUBLURE_DATA=... python benchmarks/pruning.py --task cifar10 --seeds 0 1 2 --steps 600
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from doublure import catalogue
from doublure.compress.pruning import Importance, Pruning
from doublure.core.protocols import InputContract, Source
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import Dataset, Part, open_data
from doublure.engine.model_transform import apply_transform
from doublure.engine.recipe import ModelTransform
from doublure.engine.stage_opening import open_stage
from doublure.exports.measure import Timing, count_flops, time_forms
from doublure.nets.network import Network, count_parameters
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipes import smaller
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.evaluation import evaluate
from doublure.tasks.classification.held_out import answer_held_out
from doublure.tasks.classification.scores import Classification
from doublure.verbs.naming import source_named
from doublure.verbs.train import train
from experiments import Table, clock, print_table, summarize
from real_data import cifar10_folder, data_folder

SHARES = (0.2, 0.35, 0.5)
BATCH = {"cifar10": 128, "digits": 64}
POOL = {"cifar10": "10000", "digits": "4000"}
TEACHER_STEPS = 800


def arms(data: str, contract: InputContract) -> dict[str, tuple[Source, Importance, bool]]:
    """Return images, importance, and whether the network recovers, by arm."""
    real = Surrogate(data=data)
    made: dict[str, tuple[Source, Importance, bool]] = {
        "not recovered": (Shaders(), "taylor", False),
        "noise": (Noise(), "taylor", True),
        "shaders": (Shaders(), "taylor", True),
        "real": (real, "taylor", True),
        "random filters, not recovered": (Shaders(), "random", False),
        "random filters, shaders": (Shaders(), "random", True),
        "random filters, real": (real, "random", True),
    }
    if "deep-inversion" in {entry.name for entry in catalogue.SOURCES}:
        made["deep-inversion"] = (
            source_named("deep-inversion", contract=contract),
            "taylor",
            True,
        )
    return made


def open_task(task: str, seed: int) -> tuple[Network, NetworkRef, str]:
    """Return the network of a task, its reference, and its data."""
    if task == "cifar10":
        reference = NetworkRef(
            ref="builtin/resnet20",
            weights=str(data_folder() / "cifar10-resnet" / "resnet20-12fca82f.th"),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            classes=10,
        )
        return load(reference).eval(), reference, str(cifar10_folder())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "teacher"
        train(
            "builtin/convnet-16",
            "builtin/digits",
            out=out,
            steps=TEACHER_STEPS,
            batch_size=128,
            seed=seed,
            precision="float32",
        )
        return load(str(out)).eval(), NetworkRef(ref="builtin/convnet-16"), "builtin/digits"


def run(
    task: str,
    opened: tuple[Network, NetworkRef, str],
    arm: tuple[Source, Importance, bool],
    ratio: float,
    test: Dataset,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """Prune one network, let it recover, and return its row."""
    network, reference, _ = opened
    source, importance, recovers = arm
    model_transform = ModelTransform(
        transform=Pruning(ratio=ratio, importance=importance), source=source
    )
    recipe = smaller(
        "prune",
        reference,
        network.contract,
        [model_transform],
        transfer=source,
        steps=steps * recovers,
    )
    stage = recipe.stages[0]
    fit = replace(stage.fit, batch_size=BATCH[task])
    stage = replace(with_pool(stage, POOL[task]), fit=fit)
    rng = from_seed(child_seed(seed, "stage", 0))
    pruned = apply_transform(stage, network, network, rng)
    before = evaluate(pruned, test).accuracy
    figures = {"parameters": count_parameters(pruned), "flops": count_flops(pruned)}
    began = clock()
    if recovers:
        with tempfile.TemporaryDirectory() as scratch:
            open_stage(stage, network, pruned, rng, scratch=Path(scratch))()
    seconds = clock() - began
    score = evaluate(pruned.eval(), test)
    held_out = answer_held_out(stage, seed, network, pruned, count=512)
    probe = torch.rand(64, network.contract.channels, *network.contract.size)
    paces = time_forms({"before": network.eval(), "after": pruned}, probe, Timing())
    return {
        "accuracy": score.accuracy,
        "correct": score.correct,
        "count": score.count,
        "before_recovery": before,
        "agreement": Classification().agreement([(held_out.student, held_out.teacher)]).value,
        "seconds": seconds,
        "steps": steps * recovers,
        **figures,
        "parameters_kept": figures["parameters"] / count_parameters(network),
        "flops_kept": figures["flops"] / count_flops(network),
        "speed_alone": paces["before"].latency_ms / paces["after"].latency_ms,
        "speed_in_batches": paces["after"].images_per_second / paces["before"].images_per_second,
    }


def with_pool(stage: Any, size: str) -> Any:
    """Return the stage with a smaller pool of balanced images."""

    def smaller_pool(source: Any) -> Any:
        if hasattr(source, "pool_size"):
            return replace(source, pool_size=int(size))
        return replace(source, source=smaller_pool(source.source))

    return replace(stage, source=smaller_pool(stage.source))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=BATCH, default="digits")
    parser.add_argument("--arms", nargs="+")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--count", type=int, help="of test images; all of them by default")
    parser.add_argument("--name", default="pruning", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(given.name, __doc__.splitlines()[0], {"recovery_steps": given.steps})
    for seed in given.seeds:
        opened = open_task(given.task, seed)
        test = open_data(opened[2], opened[0].contract, split="test")
        if given.count is not None:
            places = torch.randperm(len(test), generator=from_seed(0))[: given.count]
            test = Part(whole=test, places=places)
        known = arms(opened[2], opened[0].contract)
        whole = evaluate(opened[0], test).accuracy
        for ratio in given.ratios:
            at = f"{given.task}, {ratio:.0%} of the filters gone"
            for name in given.arms or known:
                if table.has(at=at, arm=name, seed=seed):
                    continue
                row = run(given.task, opened, known[name], ratio, test, given.steps, seed)
                row |= {"unpruned": whole}
                table.add({"at": at, "arm": name, "seed": seed, **row}, ("at", "arm"))
                print(
                    f"{at} {name} seed {seed}: {row['before_recovery']:.2%} -> "
                    f"{row['accuracy']:.2%}, flops {row['flops_kept']:.2f}, "
                    f"speed {row['speed_in_batches']:.2f}",
                    flush=True,
                )
    print_table(summarize(table.rows, ("at", "arm")))


if __name__ == "__main__":
    main()
