"""Can the transfer-set report tell, before any training, which set will teach a student well?

Each transfer set is a stack of a base (the teacher's own images whole, cut to few classes or long
tailed; shaders, leaves, noise, colours; the images of another task) and what is wrapped around it:
those of a list, then pairs of base and wrappers drawn by chance. Each is scored first, on as many
images as `score` and every run look at; then students are trained on it from the same starts for
the same number of steps and judged on the real test split, which nothing else sees. One row is
written for each set as it finishes; started again, the script goes on.

    digits    8 x 8 digits; the teacher is trained here
    cifar10   CIFAR-10 as JPEG; a public ResNet-20
    castings  CIFAR-10 as JPEG, each image in a warm or a cold light, each class twice: 20 classes;
              the teacher is trained here; road scenes are among the sets

    DOUBLURE_DATA=... python benchmarks/score.py --task digits
    DOUBLURE_DATA=... python benchmarks/score.py --task cifar10
    DOUBLURE_DATA=... python benchmarks/score.py --task castings
    python benchmarks/score_fit.py
"""

import argparse
import itertools
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from doublure.audits.transfer_set import COUNT, TransferSetScorer
from doublure.core.protocols import InputContract, Source, StreamContext
from doublure.core.seeding import child, child_seed, from_seed
from doublure.data.datasets import Dataset, open_data
from doublure.engine.distill import distill, stream_context
from doublure.engine.fit import FitSettings, fit
from doublure.nets.builtin import build
from doublure.nets.network import Network
from doublure.nets.precision import Precision
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import open_loss
from doublure.recipes import fast_precision
from doublure.shaders.families import FIGURES
from doublure.sources.adversarial import Adversarial
from doublure.sources.augmentation import PUBLISHED, Augmented
from doublure.sources.balanced import Balanced
from doublure.sources.flat import Flat
from doublure.sources.leaves import Leaves
from doublure.sources.matched import Matched
from doublure.sources.mixing import Mixed
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.evaluation import evaluate
from real_data import cifar10_folder, data_folder, scratch_folder, unpacked

RESULTS = Path(__file__).parent / "results"
DIGITS = InputContract(size=(8, 8), channels=1, mean=(0.3053,), std=(0.3763,), classes=10)
CIFAR10_REF = NetworkRef(
    ref="builtin/resnet20",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    classes=10,
)
CASTINGS_TEACHER = "convnet-32"
# One for all sets and all tasks, between the 2 and 20 that the paper uses.
TEMPERATURE = 4.0
POOL = 4096
# Images of each kind of shader, and of leaves.
DRAWN = 16_384

# What light does to red, green and blue.
LIGHTS = ((1.0, 0.85, 0.6), (0.6, 0.85, 1.0))
# Side of the squares that road scenes are cut into, before they are made as small as CIFAR-10's.
TILE = 60

# The base and what is wrapped around it, innermost first. Bases of a real set: all of it, half of
# its classes, two, one, a long tail (the rarest class a hundredth of the commonest), 50 images.
STACKS = """
own            |
shaders        | balance augment mixup attack
shaders        | match balance augment mixup attack
gaussian       |
own-half       |
leaves         | balance augment
other          |
own-long-tail  |
shaders        |
leaves         | match balance augment mixup
uniform        |
own            | augment mixup
few-textures   | balance augment
gaussian       | balance
own-two        | augment mixup
shaders        | balance
other          | match augment mixup
flat           |
own-half       | augment
shaders        | augment mixup
gradient       | augment
leaves         |
other          | balance augment
shaders        | match balance augment
own-two        |
stripes        | augment mixup
gaussian       | attack
own-long-tail  | balance augment
shaders        | balance augment
few-textures   |
uniform        | balance augment
own-one        |
leaves         | augment mixup attack
own-50         | augment
figures        | balance augment
other-half     | augment mixup
shaders        | balance augment attack
gradient       | balance augment attack
few-programs   | augment
own            | mild
"""
# For the task whose classes are many; road scenes are photographs of something else.
CASTINGS = """
own            |
shaders        | balance augment mixup attack
roads          |
gaussian       |
leaves         | balance augment
own-half       |
roads          | balance augment
shaders        |
other          | match augment mixup
uniform        |
shaders        | balance augment
own-long-tail  | balance augment
few-textures   | balance augment
roads          | match balance augment mixup attack
gaussian       | balance
leaves         |
shaders        | match balance augment mixup attack
own-50         | augment
flat           |
figures        | balance augment
roads          | augment mixup
shaders        | balance
gradient       | augment
own-two        | augment mixup
other          |
leaves         | match balance augment mixup
few-programs   |
gaussian       | attack
stripes        | augment mixup
own            | augment mixup
"""
# Further sets are drawn from all pairs of these, which nobody has chosen for what they give.
BASES = (
    *("own", "own-half", "own-two", "own-long-tail", "own-50", "other", "other-half"),
    *("shaders", "few-textures", "stripes", "measurements", "few-programs", "leaves"),
    *("gaussian", "gradient"),
)
PARTS = ("match", "balance", "augment", "mixup", "attack")
# Sets nobody would train on; figures are also given without them.
TRIVIAL = ("uniform |", "flat |", "own-one |")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A teacher, the student it has, and real images: of this task, and of others by name."""

    name: str
    teacher: Network
    student: str
    real: Mapping[str, Path]
    test: Dataset
    fit: FitSettings
    listed: str = STACKS


def stacks(listing: str, count: int) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return name, base and wrappers of so many transfer sets: those listed, then drawn ones.

    The order of the drawn ones is that of one seed, so that more of them only add to fewer.
    """
    listed = []
    for line in listing.strip().splitlines():
        base, _, parts = (part.strip() for part in line.partition("|"))
        listed.append((base, tuple(parts.split())))
    wrappers = [
        tuple(part for part, there in zip(PARTS, chosen, strict=True) if there)
        for chosen in itertools.product((False, True), repeat=len(PARTS))
    ]
    pairs = [pair for pair in itertools.product(BASES, wrappers) if pair not in listed]
    order = np.random.default_rng(0).permutation(len(pairs))
    chosen = [*listed, *(pairs[i] for i in order)][:count]
    return [(f"{base} | {' '.join(parts)}".strip(), base, parts) for base, parts in chosen]


def base_source(base: str, task: Task) -> Source:
    """Return the innermost source of a stack."""
    drawn: dict[str, Source] = {
        "shaders": Shaders(),
        "few-textures": Shaders(families=("plasma", "checkers", "spots")),
        "stripes": Shaders(families=("stripes",)),
        "measurements": Shaders(families=tuple(FIGURES)),
        "few-programs": Shaders(num_programs=8),
        "leaves": Leaves(),
    }
    if base in drawn:
        return Surrogate(data=str(_drawn(base, drawn[base], task)), held_out=0.0)
    plain: dict[str, Source] = {
        "gaussian": Noise(),
        "uniform": Noise(distribution="uniform"),
        "flat": Flat(),
        "gradient": Flat(gradient=True),
    }
    if base in plain:
        return plain[base]
    whose, _, part = base.partition("-")
    return Surrogate(data=str(_subset(task.real[whose], part)), held_out=0.0)


def stack(base: str, parts: tuple[str, ...], task: Task) -> Source:
    """Return the source of a stack."""
    wrap: dict[str, Callable[[Source], Source]] = {
        "balance": lambda s: Balanced(source=s, pool_size=POOL, precision=task.fit.precision),
        "augment": lambda s: Augmented(source=s),
        "mild": lambda s: Augmented(source=s, augmentation=PUBLISHED["mild"]),
        "mixup": lambda s: Mixed(source=s),
        "attack": lambda s: Adversarial(source=s),
        "match": lambda s: Matched(source=s),
    }
    source = base_source(base, task)
    for part in parts:
        source = wrap[part](source)
    return source


def student_accuracy(task: Task, source: Source, seed: int) -> float:
    """Return the accuracy on the real test split of a student trained on `source`."""
    contract = task.teacher.contract
    student = _built(task.student, contract, child_seed(seed, "student"))
    distill(
        student,
        task.teacher,
        source,
        SoftTargets(temperature=TEMPERATURE),
        settings=task.fit,
        context=stream_context(contract, student, task.fit),
        rng=from_seed(child_seed(seed, "run")),
    )
    return evaluate(student, task.test).accuracy


def digits_task(steps: int, precision: Precision) -> Task:
    """Return the task of 8 x 8 digits; its teacher is trained here, once."""
    scratch = _scratch()
    weights = scratch / "digits-teacher.pt"
    if not weights.exists():
        torch.save(_digits_teacher().body.state_dict(), weights)
    teacher = _built("convnet-16", DIGITS, 0)
    teacher.body.load_state_dict(torch.load(weights, weights_only=True))
    teacher.eval()
    return Task(
        name="digits",
        teacher=teacher,
        student="convnet-6",
        real={
            "own": _as_npz("builtin/digits:train", DIGITS),
            "other": _as_npz(str(cifar10_folder()), _cifar10_contract()),
        },
        test=open_data("builtin/digits:test", DIGITS),
        fit=FitSettings(steps=steps, batch_size=128, learning_rate=0.2, log_every=steps),
    )


def cifar10_task(steps: int, precision: Precision) -> Task:
    """Return the task of CIFAR-10 as JPEG, with a public ResNet-20."""
    weights = data_folder() / "cifar10-resnet" / "resnet20-12fca82f.th"
    teacher = load(replace(CIFAR10_REF, weights=str(weights)))
    return Task(
        name="cifar10",
        teacher=teacher,
        student="resnet8",
        real={
            "own": _as_npz(str(cifar10_folder()), teacher.contract),
            "other": _as_npz("builtin/digits:train", DIGITS),
        },
        test=open_data(cifar10_folder(), teacher.contract, split="test"),
        fit=FitSettings(
            steps=steps, batch_size=128, learning_rate=0.1, precision=precision, log_every=steps
        ),
    )


def castings_task(steps: int, precision: Precision) -> Task:
    """Return the task of twenty classes; its teacher is trained here, once."""
    own, test = (_cast(split) for split in ("train", "test"))
    weights = _scratch() / "castings-teacher.pt"
    if not weights.exists():
        torch.save(_castings_teacher(own, precision).body.state_dict(), weights)
    teacher = _built(CASTINGS_TEACHER, _castings_contract(), 0)
    teacher.body.load_state_dict(torch.load(weights, weights_only=True))
    teacher.eval()
    return Task(
        name="castings",
        teacher=teacher,
        student="convnet-8",
        real={
            "own": own,
            "other": _as_npz("builtin/digits:train", DIGITS),
            "roads": _roads(),
        },
        test=open_data(test, teacher.contract),
        fit=FitSettings(
            steps=steps, batch_size=128, learning_rate=0.1, precision=precision, log_every=steps
        ),
        listed=CASTINGS,
    )


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured on a task unless more or less is asked for."""

    make: Callable[[int, Precision], Task]
    sets: int
    steps: int
    seeds: int


TASKS = {
    "digits": Size(make=digits_task, sets=80, steps=400, seeds=2),
    "cifar10": Size(make=cifar10_task, sets=40, steps=500, seeds=1),
    "castings": Size(make=castings_task, sets=30, steps=300, seeds=2),
}


def measure(
    task: Task,
    sets: int,
    count: int,
    seeds: int,
    file: Path,
    *,
    most: int | None = None,
    rescore: bool = False,
) -> None:
    """Score and train on every set that the file does not hold yet, at most so many of them."""
    teacher_accuracy = evaluate(task.teacher, task.test).accuracy
    result: dict[str, Any] = {
        "question": __doc__.splitlines()[0],
        "task": task.name,
        "teacher_accuracy": teacher_accuracy,
        "student": task.student,
        "test_images": len(task.test),
        "classes": task.teacher.contract.classes,
        "size": list(task.teacher.contract.size),
        "scored_images": count,
        "student_seeds": seeds,
        "temperature": TEMPERATURE,
        "steps": task.fit.steps,
        "batch_size": task.fit.batch_size,
        "learning_rate": task.fit.learning_rate,
        "precision": task.fit.precision,
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "rows": [],
    }
    if file.exists():
        held = json.loads(file.read_text())
        free = ("rows", "versions", *(["scored_images"] if rescore else []))
        differing = [k for k in result if k not in free and held[k] != result[k]]
        if differing:
            raise SystemExit(f"{file} was measured with another {', '.join(differing)}; move it")
        result["rows"] = held["rows"]
    done = {row["name"]: row for row in result["rows"]}
    scorer = TransferSetScorer(task.teacher, temperature=TEMPERATURE, calibration=None)
    left = [stack for stack in stacks(task.listed, sets) if rescore or stack[0] not in done]
    for name, base, parts in left[:most]:
        source = stack(base, parts, task)
        began = time.thread_time()
        card = scorer.score(source, name=name, count=count, seed=0).to_json()
        scored = time.thread_time()
        row = done.get(name)
        if row is None:
            row = {"name": name, "trivial": name in TRIVIAL}
            row["accuracy"] = [student_accuracy(task, source, seed) for seed in range(seeds)]
            row["training_seconds"] = round(time.thread_time() - scored, 1)
            result["rows"].append(row)
        row["scoring_seconds"] = round(scored - began, 1)
        row["verdict"] = card["verdict"]
        row["raw"] = _values(card["raw"])
        row["fed"] = _values(card["fed"] or card["raw"])
        _write(file, result)
        told = {key: row["fed"].get(key) for key in ("class_entropy", "pair_coverage")}
        print(f"{name:42} {np.mean(row['accuracy']):.3f} {row['verdict']:4} {told}", flush=True)


def _values(stream: dict[str, Any]) -> dict[str, float]:
    return {name: round(e["value"], 5) for name, e in stream["measurements"].items()}


def _write(file: Path, result: dict[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(file)


def _built(name: str, contract: InputContract, seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = build(name, classes=contract.classes, channels=contract.channels, size=contract.size)
    return Network(body, contract, f"builtin/{name}")


def _digits_teacher() -> Network:
    teacher = _built("convnet-16", DIGITS, 0)
    settings = FitSettings(steps=800, batch_size=128, learning_rate=0.05, log_every=800)
    source = Augmented(
        source=Surrogate(data="builtin/digits:train", labels=True, held_out=0.0),
        augmentation=replace(PUBLISHED["mild"], shift=1, flip=0.0),
    )
    return _taught(teacher, source, settings)


def _castings_teacher(own: Path, precision: Precision) -> Network:
    teacher = _built(CASTINGS_TEACHER, _castings_contract(), 0)
    settings = FitSettings(
        steps=1500, batch_size=128, learning_rate=0.1, precision=precision, log_every=1500
    )
    source = Augmented(
        source=Surrogate(data=str(own), labels=True, held_out=0.0), augmentation=PUBLISHED["mild"]
    )
    return _taught(teacher, source, settings)


def _taught(teacher: Network, source: Source, settings: FitSettings) -> Network:
    """Return a network trained on labelled images."""
    context = stream_context(teacher.contract, teacher, settings)
    stream = source.open(context, None, child(from_seed(0), "source"))
    loss = open_loss(
        HardLabels(), teacher, None, stream.draw(0, teacher), child(from_seed(0), "objective")
    )
    fit(teacher, stream, loss, settings=settings, rng=from_seed(0))
    return teacher


def _castings_contract() -> InputContract:
    # A light dims what is normalised by as it dims the images: on average over the two.
    dimmed = np.mean(LIGHTS, axis=0)
    plain = _cifar10_contract()
    mean, std = (tuple((np.array(values) * dimmed).tolist()) for values in (plain.mean, plain.std))
    return InputContract(size=(32, 32), channels=3, mean=mean, std=std, classes=20)


def _cifar10_contract() -> InputContract:
    mean, std = CIFAR10_REF.mean, CIFAR10_REF.std
    assert mean is not None
    assert std is not None
    return InputContract(size=(32, 32), channels=3, mean=mean, std=std, classes=10)


def _scratch() -> Path:
    folder = scratch_folder() / "score"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _as_npz(data: str, contract: InputContract) -> Path:
    """Return the training images of `data` as one .npz file."""
    file = _scratch() / f"{Path(data).name.replace(':', '-')}.npz"
    if not file.exists():
        found = open_data(data, contract, split="train", labels=True)
        assert found.labels is not None
        pixels = found.images(torch.arange(len(found))).permute(0, 2, 3, 1)
        _save(file, pixels.numpy(), found.labels.numpy())
    return file


def _cast(split: str) -> Path:
    """Return CIFAR-10 in two lights: every second image in the cold one, and of its own class."""
    file = _scratch() / f"castings-{split}.npz"
    if not file.exists():
        found = open_data(str(cifar10_folder()), _cifar10_contract(), split=split, labels=True)
        assert found.labels is not None
        pixels = found.images(torch.arange(len(found))).permute(0, 2, 3, 1).numpy()
        light = np.arange(len(pixels)) % len(LIGHTS)
        lit = pixels * np.array(LIGHTS)[light][:, None, None]
        _save(file, lit.round().astype(np.uint8), found.labels.numpy() + 10 * light)
    return file


def _roads() -> Path:
    """Return squares of road scenes (CamVid), as small as the images of CIFAR-10."""
    file = _scratch() / "roads.npz"
    if not file.exists():
        frames = unpacked(data_folder() / "camvid-240x180.tar.xz", scratch_folder() / "camvid")
        squares = []
        for path in sorted((frames / "train" / "images").glob("*.jpg")):
            with Image.open(path) as image:
                frame = image.convert("RGB")
            corners = itertools.product(
                range(0, frame.width - TILE + 1, TILE), range(0, frame.height - TILE + 1, TILE)
            )
            for x, y in corners:
                square = frame.resize((32, 32), Image.Resampling.BOX, (x, y, x + TILE, y + TILE))
                squares.append(np.asarray(square))
        _save(file, np.stack(squares), None)
    return file


def _drawn(name: str, source: Source, task: Task) -> Path:
    """Return many images of a source as one .npz: stacks share them, and drawing takes time."""
    contract = task.teacher.contract
    file = _scratch() / f"{task.name}-{name}.npz"
    if not file.exists():
        steps = DRAWN // 128
        device = torch.device("cpu")
        context = StreamContext(contract=contract, device=device, batch_size=128, steps=steps)
        stream = source.open(context, None, from_seed(0))
        images = torch.cat(
            [(stream.draw(i, None).images * 255).round().byte() for i in range(steps)]
        )
        _save(file, images.permute(0, 2, 3, 1).numpy(), None)
    return file


def _subset(whole: Path, part: str) -> Path:
    """Return a part of a .npz as another one."""
    if not part:
        return whole
    file = whole.with_name(f"{whole.stem}-{part}.npz")
    if not file.exists():
        with np.load(whole) as arrays:
            images, labels = arrays["x"], arrays["y"]
        order = np.random.default_rng(0).permutation(len(labels))
        if part == "50":
            chosen = order[:50]
        elif part == "long-tail":
            most, last = np.bincount(labels).max(), labels.max()
            quota = [max(1, round(most * 100 ** (-c / last))) for c in range(last + 1)]
            chosen = np.concatenate([order[labels[order] == c][:q] for c, q in enumerate(quota)])
        else:
            classes = {"half": (labels.max() + 1) // 2, "two": 2, "one": 1}[part]
            chosen = order[labels[order] < classes]
        _save(file, images[chosen], labels[chosen])
    return file


def _save(file: Path, images: np.ndarray, labels: np.ndarray | None) -> None:
    # Not a .part: numpy would append its own suffix.
    draft = file.with_name(f"draft-{file.name}")
    np.savez(draft, x=images, **({} if labels is None else {"y": labels}))
    draft.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--sets", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seeds", type=int, help="students a set")
    parser.add_argument("--most", type=int, help="sets to measure now, of those that are left")
    parser.add_argument("--rescore", action="store_true", help="score again, train nothing again")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    size = TASKS[asked.task]
    task = size.make(asked.steps or size.steps, fast_precision("cpu"))
    RESULTS.mkdir(exist_ok=True)
    measure(
        task,
        asked.sets or size.sets,
        asked.count,
        asked.seeds or size.seeds,
        RESULTS / f"score_{asked.task}.json",
        most=asked.most,
        rescore=asked.rescore,
    )


if __name__ == "__main__":
    main()
