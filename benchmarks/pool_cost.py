"""Which share of a 10 000-step run goes into drawing and balancing its pool of shader images?

The recipe's own pool (matched shaders, balanced by the public CIFAR-10 ResNet-20, attack-fill) is
filled to the end, alone and on one thread; the steps of the recipe, ResNet-20 -> ResNet-8, are
timed with a pool that is full. The share is filling / (filling + 10 000 steps), in processor time.

    DOUBLURE_DATA=... python benchmarks/pool_cost.py
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

from cifar10 import BATCH, public_teacher
from doublure.core.protocols import Source, WrappingSource
from doublure.core.seeding import from_seed
from doublure.engine.distill import stream_context
from doublure.engine.method import MethodInputs
from doublure.engine.stage_opening import open_stage
from doublure.nets.network import freeze
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.recipes import shader_kd
from doublure.sources.balanced import Balanced
from experiments import RESULTS, versions

STEPS, TIMED = 10_000, 60
# Two rounds of attacks, of which there is one in 16 steps.
LAST = 32


def balanced_of(source: Source) -> Balanced:
    """Return the pool inside of a recipe's source."""
    while not isinstance(source, Balanced):
        assert isinstance(source, WrappingSource)
        source = source.source
    return source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    _, teacher = public_teacher()
    (stage,) = shader_kd(MethodInputs(contract=teacher.contract))
    settings = dataclasses.replace(stage.fit, steps=given.steps, batch_size=BATCH)
    student = load(NetworkRef(ref="builtin/resnet8"), like=teacher.contract, rng=from_seed(0))
    context = stream_context(teacher.contract, student, settings)

    stream = balanced_of(stage.source).open(context, freeze(teacher), from_seed(0))
    began, step = time.process_time(), 0
    while not stream.finished:
        stream.draw(step, None)
        step += 1
    filled = time.process_time() - began
    began = time.process_time()
    for later in range(step, 2 * step):
        stream.draw(later, None)
    filling = filled - (time.process_time() - began)

    result: dict[str, Any] = {
        "question": __doc__.splitlines()[0],
        "versions": versions(),
        "pair": "resnet20 -> resnet8",
        "steps": given.steps,
        "batch_size": BATCH,
        "pool": stream.report(),
        "fill_seconds": filling,
        "step_seconds": step_seconds(stage, teacher, student),
    }
    whole = filling + given.steps * result["step_seconds"]
    result["share"] = filling / whole
    path = RESULTS / f"{Path(__file__).stem}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(
        f"filling {filling:.0f} s, a step {result['step_seconds'] * 1e3:.0f} ms: "
        f"{result['share']:.1%} of {given.steps:,} steps"
    )


def step_seconds(stage: Any, teacher: Any, student: Any) -> float:
    """Return the processor time of a step of the recipe, attacks included, with a full pool."""
    laps: list[float] = []
    settings = dataclasses.replace(stage.fit, steps=TIMED, batch_size=BATCH, log_every=1)
    timed = dataclasses.replace(stage, fit=settings)
    open_stage(timed, teacher, student, from_seed(0))(
        logger=lambda _: laps.append(time.process_time())
    )
    return (laps[-1] - laps[-1 - LAST]) / LAST


if __name__ == "__main__":
    main()
