"""Can the transfer-set report tell, before any training, which set will teach a student well?

Each transfer set is a stack of a base (the teacher's own images whole, cut to few classes or long
tailed; shaders, leaves, noise, colours; the images of the other task) and what is wrapped around
it: those of a list, then pairs of base and wrappers drawn by chance. Each is scored first; then a
student is trained on it from the same start for the same number of steps and judged on the real
test split, which nothing else sees. One row is written for each set as it finishes; started again,
the script goes on.

    UNDERSTUDY_DATA=... python benchmarks/score.py --task digits
    UNDERSTUDY_DATA=... python benchmarks/score.py --task cifar10
    python benchmarks/score_fit.py
"""

import argparse
import itertools
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from real_data import cifar10_folder, data_folder, scratch_folder
from understudy.audits.evaluation import evaluate
from understudy.audits.transfer_set import TransferSetScorer
from understudy.data.datasets import Dataset, open_data
from understudy.fit import FitSettings, fit
from understudy.loading import load
from understudy.nets.builtin import build
from understudy.nets.network import Network
from understudy.nets.references import NetworkRef
from understudy.nets.taps import Precision
from understudy.objectives.hard_labels import HardLabels
from understudy.objectives.soft_targets import SoftTargets
from understudy.objectives.weighted import open_criterion
from understudy.protocols import InputContract, Site, Source
from understudy.recipes import fast_precision
from understudy.seeding import child, child_seed, from_seed
from understudy.sources.adversarial import Adversarial
from understudy.sources.augmentation import PUBLISHED, Augmented
from understudy.sources.balanced import Balanced
from understudy.sources.flat import Flat
from understudy.sources.leaves import Leaves
from understudy.sources.matched import Matched
from understudy.sources.mixing import Mixed
from understudy.sources.noise import Noise
from understudy.sources.shader_families import FIGURES
from understudy.sources.shaders import Shaders
from understudy.sources.surrogate import Surrogate
from understudy.spine import distill, site_of

RESULTS = Path(__file__).parent / "results"
DIGITS = InputContract(size=(8, 8), channels=1, mean=(0.3053,), std=(0.3763,), classes=10)
CIFAR10_REF = NetworkRef(
    ref="builtin/resnet20",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    classes=10,
)
# One for all sets and both tasks, between the 2 and 20 that the paper uses.
TEMPERATURE = 4.0
POOL = 4096
# Images of each kind of shader, and of leaves.
DRAWN = 16_384

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
# Further sets are drawn from all pairs of these, which nobody has chosen for what they give.
BASES = (
    *("own", "own-half", "own-two", "own-long-tail", "own-50", "other", "other-half"),
    *("shaders", "few-textures", "stripes", "figures", "few-programs", "leaves"),
    *("gaussian", "gradient"),
)
PARTS = ("match", "balance", "augment", "mixup", "attack")
# Sets nobody would train on; figures are also given without them.
TRIVIAL = ("uniform |", "flat |", "own-one |")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A teacher, the student it has, and the real images of this task and of the other."""

    name: str
    teacher: Network
    student: str
    own: Path
    other: Path
    test: Dataset
    fit: FitSettings


def stacks(count: int) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return name, base and wrappers of so many transfer sets: those of the list, then drawn ones.

    The order of the drawn ones is that of one seed, so that more of them only add to fewer.
    """
    listed = []
    for line in STACKS.strip().splitlines():
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
        "figures": Shaders(families=tuple(FIGURES)),
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
    return Surrogate(data=str(_subset(getattr(task, whose), part)), held_out=0.0)


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
        site=site_of(contract, student, task.fit),
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
        own=_as_npz("builtin/digits:train", DIGITS),
        other=_as_npz(str(cifar10_folder()), _cifar10_contract()),
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
        own=_as_npz(str(cifar10_folder()), teacher.contract),
        other=_as_npz("builtin/digits:train", DIGITS),
        test=open_data(cifar10_folder(), teacher.contract, split="test"),
        fit=FitSettings(
            steps=steps, batch_size=128, learning_rate=0.1, precision=precision, log_every=steps
        ),
    )


TASKS = {"digits": digits_task, "cifar10": cifar10_task}


def measure(task: Task, sets: int, count: int, seeds: int, file: Path, *, rescore: bool) -> None:
    """Score and train on every set that the file does not hold yet."""
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
        differing = [k for k in result if k not in ("rows", "versions") and held[k] != result[k]]
        if differing:
            raise SystemExit(f"{file} was measured with another {', '.join(differing)}; move it")
        result["rows"] = held["rows"]
    done = {row["name"]: row for row in result["rows"]}
    scorer = TransferSetScorer(task.teacher, temperature=TEMPERATURE, calibration=None)
    for name, base, parts in stacks(sets):
        if name in done and not rescore:
            continue
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
    return {name: round(e["value"], 5) for name, e in stream["figures"].items()}


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
    site = site_of(DIGITS, teacher, settings)
    stream = source.open(site, None, child(from_seed(0), "source"))
    criterion = open_criterion(
        HardLabels(), teacher, None, stream.draw(0, teacher), child(from_seed(0), "objective")
    )
    fit(teacher, stream, criterion, settings=settings, rng=from_seed(0))
    return teacher


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


def _drawn(name: str, source: Source, task: Task) -> Path:
    """Return many images of a source as one .npz: stacks share them, and drawing takes time."""
    contract = task.teacher.contract
    file = _scratch() / f"{task.name}-{name}.npz"
    if not file.exists():
        steps = DRAWN // 128
        device = torch.device("cpu")
        site = Site(contract=contract, device=device, batch_size=128, steps=steps)
        stream = source.open(site, None, from_seed(0))
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
            most = np.bincount(labels).max()
            quota = [max(1, round(most * 100 ** (-c / 9))) for c in range(10)]
            chosen = np.concatenate([order[labels[order] == c][: quota[c]] for c in range(10)])
        else:
            classes = {"half": 5, "two": 2, "one": 1}[part]
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
    parser.add_argument("--sets", type=int, help="80 on digits, 40 on CIFAR-10")
    parser.add_argument("--steps", type=int, help="400 on digits, 500 on CIFAR-10")
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--seeds", type=int, help="students a set: 2 on digits, 1 on CIFAR-10")
    parser.add_argument("--rescore", action="store_true", help="score again, train nothing again")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    digits = asked.task == "digits"
    task = TASKS[asked.task](asked.steps or (400 if digits else 500), fast_precision("cpu"))
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"score_{asked.task}.json"
    sets, seeds = asked.sets or (80 if digits else 40), asked.seeds or (2 if digits else 1)
    measure(task, sets, asked.count, seeds, file, rescore=asked.rescore)


if __name__ == "__main__":
    main()
