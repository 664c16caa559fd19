"""What does a latent generator add to an auto-encoder's decoder, as images and as a transfer set?

One decoder, four kinds of codes: made by the LCW generator, normal, of a Gaussian fitted to codes,
and interpolated between codes of training images. The decoder is that of a plain auto-encoder, as
published, and that of a Cramer-Wold auto-encoder, whose codes are asked to be normal: its decoder
with normal codes is the rival without a latent generator. Trained on the real images, and on as
many shader images, which then stand in for them. Each arm is shown to
a student as it is, at equal steps and with the same first weights; so are the sets themselves.

The Frechet distance compares as many images of an arm as there are training images with the test
images, in the last features of this benchmark's own teacher: of the kind of FID, but not
comparable with FID.

    python benchmarks/lcw.py --seeds 0 1 2
    DOUBLURE_DATA=... python benchmarks/lcw.py --data cifar10 --steps 2000 --generator-steps 4000
"""

import argparse
import functools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from doublure.core.protocols import Source, StreamContext
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import batches, open_data
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.sources.lcw import LCW
from doublure.sources.surrogate import Surrogate
from doublure.tasks.generation.nearness import frechet_distance
from doublure.verbs.demo import BATCH, STUDENT, TEACHER, TEACHER_STEPS
from doublure.verbs.synthesize import synthesize
from doublure.verbs.train import train
from doublure.verbs.train_generator import train_generator
from experiments import Arm, Setting, Table, of_one_host, print_table, run_arm, summarize
from real_data import cifar10_folder, data_folder

Codes = Literal["generated", "normal", "gaussian", "interpolated"]
KINDS: tuple[Codes, ...] = get_args(Codes)
AS_DRAWN = ("matching", "balance", "augmentation", "mixup", "attack")
# Enough for the covariance of the features; the digits are fewer.
MOST_COMPARED = 5000
AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Task:
    """The real data, who knows them, and where its last features are seen.

    Args:
        normality: published weight, in a Cramer-Wold auto-encoder of such images.
    """

    name: str
    data: str
    teacher: NetworkRef
    student: str
    tap: str
    normality: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500, help="of a student")
    parser.add_argument("--generator-steps", type=int, default=800, help="of either stage")
    parser.add_argument("--name", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task = cifar10() if given.data == "cifar10" else digits(folder)
        told = {
            "pair": f"{given.data} teacher -> {task.student}",
            "generator_steps": given.generator_steps,
            "steps": given.steps,
            "batch_size": BATCH,
        }
        name = given.name or ("lcw" if given.data == "digits" else f"lcw_{given.data}")
        table = Table(name, __doc__.splitlines()[0], told)
        for seed in given.seeds:
            measure(task, table, folder, seed, given.steps, given.generator_steps)
    table.extend(frechet=spreads(of_one_host(table.rows), "frechet"))
    print_table(summarize(table.rows, ("arm",)))
    for arm, (mean, sd) in table.head["frechet"].items():
        spread = "one seed" if sd is None else f"+- {sd:.3f}"
        print(f"{arm:44}Frechet distance {mean:9.3f} {spread}")


def digits(folder: Path) -> Task:
    """Return the demonstration's pair, its teacher trained with seed 0."""
    teacher = folder / "teacher"
    if not teacher.exists():
        train(TEACHER, "builtin/digits", out=teacher, steps=TEACHER_STEPS, batch_size=BATCH)
    return Task(
        name="digits",
        data="builtin/digits:train",
        teacher=NetworkRef(ref=str(teacher)),
        student=STUDENT,
        tap="bn3",
        normality="1",
    )


def cifar10() -> Task:
    """Return the public ResNet-20 with CIFAR-10's images."""
    reference = NetworkRef(
        ref="builtin/resnet20",
        weights=str(data_folder() / "cifar10-resnet" / "resnet20-12fca82f.th"),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        classes=10,
    )
    data = str(cifar10_folder())
    return Task(
        name="cifar10",
        data=data,
        teacher=reference,
        student="builtin/resnet8",
        tap="layer3",
        normality="10",
    )


def measure(
    task: Task, table: Table, folder: Path, seed: int, steps: int, generator_steps: int
) -> None:
    """Add the rows of one seed that are not there yet."""
    teacher = load(task.teacher)
    test = open_data(task.data.removesuffix(":train"), teacher.contract, split="test")
    count = min(MOST_COMPARED, len(open_data(task.data, teacher.contract)))
    shaders = str(folder / f"shaders-{seed}")
    look = functools.partial(features, teacher=freeze(teacher), tap=task.tap)
    real = torch.cat([look(images.float() / 255) for images, _ in batches(test, AT_ONCE)])
    setting = Setting(teacher=task.teacher, student=task.student, batch_size=BATCH, assignments={})
    for name, data in ((task.name, task.data), ("shaders", shaders)):
        if all(table.has(arm=arm, seed=seed) for arm in (name, *kinds_of(task, name))):
            continue
        if data == shaders and not Path(shaders).exists():
            contract = teacher.contract
            shape: dict[str, Any] = {"size": contract.size, "channels": contract.channels}
            synthesize("shaders", count=count, out=shaders, seed=seed, **shape)
        sources: dict[str, tuple[Source, float | None]] = {name: (Surrogate(data=data), None)}
        sources |= generated(task, table, folder, (name, data), seed, generator_steps)
        for arm, (source, nearness) in sources.items():
            if table.has(arm=arm, seed=seed):
                continue
            drawn = draw(source, teacher, count, seed)
            row = run_arm(
                Arm(name=arm, base=source, without=AS_DRAWN),
                setting,
                teacher,
                test,
                seed=seed,
                steps=steps,
            )
            apart = torch.cat([look(part) for part in drawn.split(AT_ONCE)])
            row |= {"frechet": frechet_distance(apart, real).item()}
            row |= {"compared": count, "test_images": len(real), "nearness": nearness}
            table.add(row, ("arm",))
            print(
                f"{arm} seed {seed}: {row['accuracy']:.2%}, Frechet distance {row['frechet']:.3f}",
                flush=True,
            )


def kinds_of(task: Task, name: str) -> dict[str, tuple[str, Codes]]:
    """Return how normal the codes are asked to be, and which are drawn, by arm."""
    first = {"plain auto-encoder, ": "0", "": task.normality}
    return {
        f"{name}: {before}{kind}": (normality, kind)
        for before, normality in first.items()
        for kind in KINDS
    }


def generated(
    task: Task,
    table: Table,
    folder: Path,
    named: tuple[str, str],
    seed: int,
    steps: int,
) -> dict[str, tuple[Source, float | None]]:
    """Return the missing sources of generated images, and how near to its images each stays.

    Args:
        named: what the images learned from are called, and where they are.
    """
    name, data = named
    made: dict[str, dict[str, Any]] = {}
    sources: dict[str, tuple[Source, float | None]] = {}
    for arm, (normality, kind) in kinds_of(task, name).items():
        if table.has(arm=arm, seed=seed):
            continue
        run = str(folder / f"generator-{name}-{normality}-{seed}")
        if run not in made:
            asked = {"auto_encoder.normality": normality}
            made[run] = train_generator(
                "lcw",
                data,
                out=run,
                steps=steps,
                seed=seed,
                set=asked,
                overwrite=Path(run).exists(),
            )
        sources[arm] = (LCW(generator=run, codes=kind), made[run]["nearness"])
    return sources


def draw(source: Source, teacher: Network, count: int, seed: int) -> Tensor:
    """Return `count` images of a source as a student would see them first."""
    context = StreamContext(
        contract=teacher.contract, device=torch.device("cpu"), batch_size=AT_ONCE, steps=1
    )
    stream = source.open(context, teacher, from_seed(child_seed(seed, "compared")))
    parts = [stream.draw(step, None).images for step in range(-(-count // AT_ONCE))]
    return torch.cat(parts)[:count]


def features(images: Tensor, *, teacher: torch.nn.Module, tap: str) -> Tensor:
    """Return the teacher's last features: rectified, and their mean over the image."""
    with torch.no_grad(), FeatureRecorder(teacher, (tap,)) as recorder:
        return recorder.record(images).features[tap].relu().mean((2, 3))


def spreads(rows: Sequence[dict[str, Any]], key: str) -> dict[str, tuple[float, float | None]]:
    """Return mean and standard deviation of a figure for each arm; none of one seed."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["arm"], []).append(row[key])
    return {
        arm: (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
        for arm, values in sorted(groups.items(), key=lambda group: statistics.mean(group[1]))
    }


if __name__ == "__main__":
    main()
