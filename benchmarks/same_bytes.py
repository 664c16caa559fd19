"""Do the same recipe and seed still make the same student, byte for byte?

Recipes of every verb that makes something, each a few steps long, in one thread. The SHA-256 of
what each of them made is compared with the one recorded for this kind of processor and this torch;
on others sums are added in another order. A kind that has no record yet gets one, and with --record
so does every run, after a change that is meant to change what is learnt.

    python benchmarks/same_bytes.py [--only dfad prune] [--record]
"""

import argparse
import functools
import hashlib
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doublure.core.optional import reason_absent
from doublure.data.digits import digits
from doublure.nets.precision import fast_precision
from doublure.verbs.continual import continual
from doublure.verbs.distill import distill
from doublure.verbs.prune import prune
from doublure.verbs.quantize import quantize
from doublure.verbs.synthesize import synthesize
from doublure.verbs.train import train
from doublure.verbs.train_generator import train_generator

# A record and no result: it says nothing of methods, and pages do not show it.
RECORD = Path(__file__).with_suffix(".json")
CPU = Path("/proc/cpuinfo")
DIGITS, TEACHER, STUDENT = "builtin/digits", "builtin/convnet-6", "builtin/convnet-4"
SHORT: dict[str, Any] = {"steps": 12, "batch_size": 16, "audit": False}
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
# Of parallel text; where they are absent, translators are left out.
TEXT_LIBRARIES = ("tokenizers", "sacrebleu")
STUDENT_FILE = "student.safetensors"


class Runs:
    """A folder of runs; what several of them start from is made once, by the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def teacher(self) -> str:
        """A network that knows a little of the digits."""
        return self.taught("teacher", TEACHER, DIGITS)

    @functools.cached_property
    def enlarged(self) -> str:
        """A network that sees the digits at 16 pixels a side, where they are cropped and mixed."""
        return self.taught("teacher of 16", TEACHER, DIGITS, size=16)

    @functools.cached_property
    def translator(self) -> str:
        return self.taught("translator", "builtin/translator-1-8", self.text, steps=30)

    @functools.cached_property
    def text(self) -> str:
        """Parallel text in which every sentence is translated into its own reverse."""
        chance, folder = random.Random(0), self.folder / "text"
        rows = [chance.choices(WORDS, k=chance.randint(2, 6)) for _ in range(200)]
        folder.mkdir()
        for language, order in (("de", 1), ("en", -1)):
            lines = [" ".join(row[::order]) + "\n" for row in rows]
            (folder / f"train.{language}").write_text("".join(lines), encoding="utf-8")
        return f"{folder}:de-en"

    @functools.cached_property
    def generator(self) -> str:
        """A generator of digits."""
        out = self.folder / "generator"
        train_generator("lcw", DIGITS, out=out, steps=8, batch_size=32)
        return str(out)

    def digits_of(self, classes: range) -> str:
        """Write the digits of some classes into a file and return its name."""
        pixels, labels = digits("train")
        chosen = np.isin(labels.numpy(), classes)
        file = self.folder / f"digits from {classes.start}.npz"
        np.savez(file, x=np.asarray(pixels)[chosen], y=labels.numpy()[chosen])
        return str(file)

    def taught(self, name: str, net: str, data: str, *, steps: int = 40, **options: Any) -> str:
        train(net, data, out=self.folder / name, steps=steps, batch_size=64, **options)
        return str(self.folder / name)


def trained(runs: Runs, out: Path) -> Path:
    return Path(runs.teacher) / STUDENT_FILE


def trained_without_batchnorm(runs: Runs, out: Path) -> Path:
    """A transformer: AdamW, an average of the weights, AutoAugment."""
    fields = {"ema_decay": "0.9"}
    train(
        "builtin/vit-small",
        DIGITS,
        out=out,
        size=16,
        augment="autoaugment",
        set=fields,
        steps=4,
        batch_size=8,
    )
    return out / STUDENT_FILE


def distilled(**options: Any) -> Callable[[Runs, Path], Path]:
    """Return what distils the teacher of digits by these options."""

    def make(runs: Runs, out: Path) -> Path:
        given = {"method": "shader-kd"} | SHORT | options
        distill(runs.teacher, STUDENT, out=out, **given)
        return out / STUDENT_FILE

    return make


def distilled_enlarged(runs: Runs, out: Path) -> Path:
    distill(runs.enlarged, STUDENT, out=out, method="shader-kd", set=POOL, **SHORT)
    return out / STUDENT_FILE


def distilled_from_generator(runs: Runs, out: Path) -> Path:
    shown = {"method": "shader-kd", "transfer": runs.generator}
    distill(runs.teacher, STUDENT, out=out, **shown, **SHORT)
    return out / STUDENT_FILE


def distilled_translator(**options: Any) -> Callable[[Runs, Path], Path]:
    """Return what distils the translator by these options."""

    def make(runs: Runs, out: Path) -> Path:
        given = SHORT | {"transfer": runs.text} | options
        distill(runs.translator, "builtin/translator-1-8", out=out, **given)
        return out / STUDENT_FILE

    return make


def pruned(runs: Runs, out: Path) -> Path:
    rounds = 2
    fields = {f"stages.{i}.source.source.chunk": "32" for i in range(rounds)}
    prune(runs.teacher, 0.5, out=out, rounds=rounds, set=fields, **SHORT)
    return out / STUDENT_FILE


def quantized(runs: Runs, out: Path) -> Path:
    quantize(runs.teacher, out=out, weight_bits=4, activation_bits=4, set=POOL, **SHORT)
    return out / STUDENT_FILE


def taught_new_classes(runs: Runs, out: Path) -> Path:
    old = runs.taught("teacher of seven", TEACHER, runs.digits_of(range(7)))
    continual(old, runs.digits_of(range(7, 10)), out=out, set=POOL, **SHORT)
    return out / STUDENT_FILE


def generator(runs: Runs, out: Path) -> Path:
    return Path(runs.generator) / "generator.safetensors"


def synthesized(source: str, **fields: str) -> Callable[[Runs, Path], Path]:
    """Return what writes images of a source to disk."""

    def make(runs: Runs, out: Path) -> Path:
        synthesize(source, count=24, out=out, teacher=runs.teacher, set=fields)
        return out / "images.npy"

    return make


SEARCHED = {"optimisation.iterations": "8", "first": "2", "every": "4"}
NARROW = {"generator.width": "16"}
POOL = {"balanced.pool_size": "64", "balanced.chunk": "32"}
TRANSLATORS = {
    "distill sequence-kd": distilled_translator(),
    "distill divergence": distilled_translator(objective=("divergence",)),
}
RUNS: dict[str, Callable[[Runs, Path], Path]] = {
    "train": trained,
    "train vit": trained_without_batchnorm,
    "distill auto": distilled(method="auto"),
    "distill shader-kd": distilled(set=POOL),
    "distill shader-kd at 16 pixels": distilled_enlarged,
    "distill deep-inversion": distilled(method="deep-inversion", set=SEARCHED),
    "distill adaptive-deep-inversion": distilled(method="adaptive-deep-inversion", set=SEARCHED),
    "distill dfad": distilled(method="dfad", set=NARROW),
    "distill rdskd": distilled(method="rdskd", set=NARROW | {"generator_steps": "8"}),
    "distill fast-meta": distilled(method="fast-meta", set=NARROW | {"warm_up": "2"}),
    "distill surrogate-kd": distilled(method="surrogate-kd", transfer=DIGITS),
    "distill labels": distilled(method="surrogate-kd", transfer=DIGITS, labels=True),
    "distill autoaugment-kd": distilled(method="autoaugment-kd", transfer=DIGITS, labels=True),
    "distill activation-boundary": distilled(method="activation-boundary", transfer=DIGITS),
    "distill leaves": distilled(transfer="leaves", objective=("dist",), set=POOL),
    "distill features": distilled(
        method="surrogate-kd",
        transfer=DIGITS,
        labels=True,
        objective=("fit-nets", "crd=0.5", "similarity-preserving=2"),
    ),
    "distill lcw": distilled_from_generator,
    "prune": pruned,
    "quantize": quantized,
    "continual": taught_new_classes,
    "train-generator lcw": generator,
    "synthesize shaders": synthesized("shaders"),
    "synthesize batch-norm-statistics": synthesized(
        "batch-norm-statistics", **{"optimisation.iterations": "8"}
    ),
    **TRANSLATORS,
}


def host() -> str:
    """Return what the last bits depend on: the kind of processor, and torch."""
    kind = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    if CPU.exists():  # by the vendor the libraries of linear algebra choose their kernels
        lines = (line.split(":") for line in CPU.read_text().splitlines() if ":" in line)
        kind += [value.strip() for name, value in lines if name.strip() == "vendor_id"][:1]
    kind.append(fast_precision("cpu"))  # what recipes choose here
    return f"{' '.join(kind)}, torch {version('torch')}"


def digests(names: Iterable[str]) -> dict[str, str]:
    """Make what these runs make and return the SHA-256 of each file."""
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        for name in names:
            began = time.perf_counter()
            file = RUNS[name](runs, runs.folder / name)
            made[name] = hashlib.sha256(file.read_bytes()).hexdigest()
            print(f"{made[name][:16]}  {name} ({time.perf_counter() - began:.1f}s)", flush=True)
    return made


def differing(recorded: dict[str, str], made: dict[str, str]) -> list[str]:
    """Return the runs that are on record and made something else."""
    return [name for name in made if recorded.get(name, made[name]) != made[name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="RUN", default=[*RUNS])
    parser.add_argument("--record", action="store_true", help="record, whatever is on record")
    parser.add_argument("--file", type=Path, default=RECORD, help="the file of the record")
    told = parser.parse_args()
    torch.set_num_threads(1)
    absent = any(map(reason_absent, TEXT_LIBRARIES))
    made = digests(name for name in told.only if not (absent and name in TRANSLATORS))
    hosts = json.loads(told.file.read_text())["hosts"] if told.file.exists() else {}
    recorded = hosts.get(host(), {})
    changed = [] if told.record else differing(recorded, made)
    hosts[host()] = recorded | {n: d for n, d in made.items() if n not in changed}
    result = {"question": __doc__.splitlines()[0], "hosts": hosts}
    told.file.write_text(json.dumps(result, indent=2) + "\n")
    new = [name for name in made if name not in recorded]
    print(f"{len(made) - len(changed) - len(new)} as recorded, {len(new)} new on {host()}")
    if changed:
        sys.exit(f"other bytes than recorded: {', '.join(changed)}")


if __name__ == "__main__":
    main()
