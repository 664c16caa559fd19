"""Is augmentation fast enough to be had for nothing, and what does composing its operations save?

One thread, batches of 256 colour images of 32 x 32. Seconds are the thread's own, and the two sides
of a ratio are timed in turn, so that what else the machine does counts little and falls on both.
Each figure is the median over the seeds. kornia takes part where it is installed; its RandAugment
draws the same operations for a whole batch, ours for each image.

    python benchmarks/augmentation.py
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from doublure.core.optional import reason_absent, require
from doublure.core.seeding import from_seed
from doublure.sources.augmentation import PUBLISHED, Augmentation, augment
from doublure.sources.leaves import dead_leaves
from doublure.sources.operations import EVERY_OPERATION

RESULT = Path(__file__).parent / "results" / "augmentation.json"
BATCH, SIZE, SEEDS = 256, 32, range(21)
TARGET = 10_000  # images a second

Change = Callable[[Tensor, int], Tensor]
STILL = Augmentation(crop_area=(1.0, 1.0), flip=0.0, turn=0.0, num_operations=0)


def ours(augmentation: Augmentation) -> Change:
    """Return the augmentation as a function of images and seed."""
    return lambda images, seed: augment(images, augmentation, from_seed(seed))


def one_by_one(augmentation: Augmentation) -> Change:
    """Return the same with one pass, and one resampling, for each operation."""
    placing = replace(augmentation, num_operations=0)
    operation = replace(STILL, num_operations=1, operations=augmentation.operations)

    def change(images: Tensor, seed: int) -> Tensor:
        images = augment(images, placing, from_seed(seed))
        for i in range(augmentation.num_operations):
            images = augment(images, operation, from_seed(1000 * seed + i))
        return images

    return change


def kornia_chain(augmentation: Augmentation) -> Change:
    """Return kornia's crop, flip, rotation and RandAugment at the same strengths."""
    kornia = require("kornia.augmentation")
    automatic = require("kornia.augmentation.auto")
    chain = torch.nn.Sequential(
        kornia.RandomResizedCrop((SIZE, SIZE), augmentation.crop_area, augmentation.crop_ratio),
        kornia.RandomHorizontalFlip(p=augmentation.flip),
        kornia.RandomRotation(augmentation.turn, p=1.0),
        automatic.RandAugment(n=augmentation.num_operations, m=round(3 * augmentation.magnitude)),
    )

    def change(images: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return chain(images)

    return change


def images_per_second(images: Tensor, **changes: Change) -> dict[str, dict[str, float]]:
    """Return the rate of each change, timed in turn: median and quartiles over the seeds."""
    seconds: dict[str, list[float]] = {name: [] for name in changes}
    for seed in SEEDS:
        for name, change in changes.items():
            began = time.thread_time()
            change(images, seed)
            seconds[name].append(time.thread_time() - began)
    rates = {}
    for name, times in seconds.items():
        slow, middle, fast = (len(images) / q for q in reversed(statistics.quantiles(times[1:])))
        rates[name] = {"median": round(middle), "quartiles": [round(slow), round(fast)]}
    return rates


def measure() -> dict[str, Any]:
    images = dead_leaves(BATCH, (SIZE, SIZE), 3, 5000, from_seed(0))
    # A network's activations have passed through the allocator before: so here.
    torch.rand(2**23)
    result: dict[str, Any] = {
        "images_per_second": images_per_second(
            images, **{name: ours(setting) for name, setting in PUBLISHED.items()}
        )
    }
    extreme = PUBLISHED["extreme"]
    rates = images_per_second(images, composed=ours(extreme), one_by_one=one_by_one(extreme))
    result["composing"] = ratio(rates, "composed", "one_by_one")
    absent = reason_absent("kornia")
    if absent is None:
        rates = images_per_second(images, ours=ours(extreme), kornia=kornia_chain(extreme))
        result["kornia"] = ratio(rates, "ours", "kornia") | {"version": version("kornia")}
    else:
        result["kornia"] = f"not measured: {absent}"
    result["operations_images_per_second"] = {
        name: images_per_second(
            images, it=ours(replace(STILL, num_operations=1, operations=(name,)))
        )["it"]["median"]
        for name in EVERY_OPERATION
    }
    return result


def ratio(rates: dict[str, dict[str, float]], one: str, other: str) -> dict[str, Any]:
    return {**rates, "ratio": round(rates[one]["median"] / rates[other]["median"], 2)}


def main() -> None:
    torch.set_num_threads(1)
    result = {
        "question": __doc__.splitlines()[0],
        "batch": [BATCH, 3, SIZE, SIZE],
        "seeds": len(SEEDS),
        "target_images_per_second": TARGET,
        **measure(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
