"""How much BLEU does a small translator gain from its teacher, and from which of its sentences?

Captions of Multi30k, German into English, from `$DOUBLURE_DATA/multi30k-en-de.tar.xz`. The
teacher learns from the corpus. Students of a seed start from equal weights. First arms of equal
steps from random weights: the corpus alone, forward divergence behind it, the teacher's sentences.
Then arms of equal steps that go on from the forward student at a third of the rate: forward
again, and reverse and mixed divergences behind the corpus and behind the student's own sentences,
which take longer a step; `cpu_seconds` says how much. Greedy decoding everywhere. A gap stands
beside the arm it is over; its 95 % interval is a paired bootstrap over sentences. Nothing is chosen
by test sentences.

    python benchmarks/translation.py --work FOLDER --seeds 0 1
    python benchmarks/translation.py --work FOLDER --setting large --seeds 0 1 2

The small setting takes some 45 minutes of one thread for two seeds; the large one is for a GPU.
Runs go on where they were killed, rows are written one by one.
"""

import argparse
import json
import os
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from doublure.core.seeding import from_seed
from doublure.tasks.translation.parallel_text import open_text
from doublure.tasks.translation.scores import bleu_counts, bleu_of, paired_bootstrap
from doublure.verbs.distill import distill
from doublure.verbs.evaluate import evaluate
from doublure.verbs.train import train
from experiments import RESULTS, Table

TEST = "test_2016_flickr"
DRAWS = 1000
COUNTS = "counts.json"
WARM = "forward"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to teach: its objectives, fields of the recipe, and what it goes on from.

    Args:
        after: the arm of the same seed whose student it starts from; "" starts afresh.
        against: the arm it is compared with.
    """

    name: str
    objective: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    after: str = ""
    against: str = "alone"


AT_ONE = {"soft-targets.temperature": "1.0"}


def going_on(
    name: str, objective: tuple[str, ...], share: float, told: Mapping[str, str] | None = None
) -> Arm:
    fields = {"on-policy.share": str(share), **(told or {})}
    fields |= AT_ONE if objective == FORWARD else {}
    return Arm(name=name, objective=objective, fields=fields, after=WARM, against="forward again")


FORWARD = ("soft-targets",)
REVERSE = ("divergence",)
ON_POLICY = (*REVERSE, "return-to-go")
ARMS = (
    Arm(name="alone"),
    Arm(name=WARM, objective=FORWARD, fields=AT_ONE),
    going_on("forward again", FORWARD, 0.0),
    going_on("reverse behind the corpus", REVERSE, 0.0),
    going_on("reverse on-policy", REVERSE, 1.0),
    going_on("jensen-shannon on-policy", REVERSE, 1.0, {"divergence.form": "jensen-shannon"}),
    Arm(name="sequence-level"),
    going_on("reverse half on-policy", REVERSE, 0.5),
    going_on("reverse on-policy + return to go per token", ON_POLICY, 1.0),
    going_on(
        "reverse on-policy + return to go", ON_POLICY, 1.0, {"return-to-go.per_token": "false"}
    ),
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all arms share.

    Args:
        pieces: of each language's vocabulary.
        beams: by which the teacher searches for its sentences.
        steps: of the arms from random weights.
        later_steps: of the arms that go on.
    """

    teacher: str
    student: str
    pieces: int
    beams: int
    teacher_steps: int
    steps: int
    later_steps: int
    batch_size: int = 64
    test: str = TEST


SETTINGS = {
    "small": Setting(
        teacher="builtin/translator-2-128",
        student="builtin/translator-1-64",
        pieces=2000,
        beams=1,
        teacher_steps=4000,
        steps=2000,
        later_steps=400,
    ),
    "large": Setting(
        teacher="builtin/translator-6-256",
        student="builtin/translator-2-128",
        pieces=4000,
        beams=5,
        teacher_steps=12_000,
        steps=8000,
        later_steps=2000,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where runs are kept, and how they are made.

    Args:
        device: where all arms learn and are judged.
        watch: is told the number of steps and each line of a run's metrics log.
    """

    work: Path
    setting: Setting
    device: str
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None

    @property
    def teacher(self) -> Path:
        return self.work / "teacher"

    @property
    def text(self) -> Path:
        """The folder of the corpus."""
        folder = self.work / "text"
        if not folder.exists():
            archive = Path(os.environ["DOUBLURE_DATA"]) / "multi30k-en-de.tar.xz"
            with tarfile.open(archive) as packed:
                packed.extractall(folder.with_suffix(".part"), filter="data")
            folder.with_suffix(".part").rename(folder)
        return folder

    def student(self, arm: str, seed: int) -> Path:
        return self.work / f"{arm.replace(' ', '-')}-{seed}"


def measure(bench: Bench, table: Table, seeds: Sequence[int]) -> None:
    """Make what is missing of the teacher and of every arm, and add its row."""
    measure_teacher(bench, table)
    for seed in seeds:
        for arm in ARMS:
            measure_student(bench, table, arm, seed)
            table.extend(gaps=gaps(bench, seeds))


def measure_teacher(bench: Bench, table: Table) -> dict[str, Any]:
    """Make the teacher, where it is missing, and return its row."""
    if not finished(bench.teacher):
        timed(bench.teacher, train_alone, bench, bench.setting.teacher, 0, bench.teacher)
    return note(table, bench, "teacher", 0, bench.teacher)


def measure_student(bench: Bench, table: Table, arm: Arm, seed: int) -> dict[str, Any]:
    """Make the student of an arm, where it is missing, and return its row."""
    out = bench.student(arm.name, seed)
    if not finished(out):
        timed(out, learn, bench, arm, seed, out)
    return note(table, bench, arm.name, seed, out)


def main() -> None:
    given = options()
    torch.set_num_threads(1)
    setting = SETTINGS[given.setting]
    bench = Bench(work=given.work, setting=setting, device=given.device)
    bench.work.mkdir(parents=True, exist_ok=True)
    measure(bench, open_table(given.setting), given.seeds)


def open_table(setting: str, folder: Path = RESULTS) -> Table:
    """Return the results of a setting."""
    name = "translation" if setting == "small" else f"translation_{setting}"
    question = "What does a small translator gain from its teacher?"
    return Table(name, question, asdict(SETTINGS[setting]), folder)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--setting", default="small", choices=[*SETTINGS])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if "DOUBLURE_DATA" not in os.environ:
        parser.exit(0, "DOUBLURE_DATA is not set: nothing to measure\n")
    return given


def finished(out: Path) -> bool:
    return (out / "summary.json").exists()


def timed(out: Path, work: Callable[..., None], *told: Any) -> None:
    """Do it, and keep its seconds of processor time beside it unless it was interrupted."""
    whole, began = not out.exists(), time.process_time()
    work(*told)
    if whole:
        (out / "cpu_seconds").write_text(str(time.process_time() - began))


def train_alone(bench: Bench, net: str, seed: int, out: Path) -> None:
    """Train on the corpus alone; the vocabulary is learned from it, and is the same each time."""
    setting = bench.setting
    train(
        net,
        f"{bench.text}:de-en",
        set={"student.pieces": str(setting.pieces)},
        steps=setting.teacher_steps if out == bench.teacher else setting.steps,
        **run_options(bench, seed, out),
    )


def learn(bench: Bench, arm: Arm, seed: int, out: Path) -> None:
    """Make the student of an arm, or go on with it."""
    setting = bench.setting
    if arm.name == "alone":
        train_alone(bench, setting.student, seed, out)
        return
    told: dict[str, Any] = {"steps": setting.later_steps if arm.after else setting.steps}
    if arm.after:
        told["init_from"] = str(bench.student(arm.after, seed) / "student.safetensors")
        told["lr"] = 3e-4
    fields = dict(arm.fields)
    if not arm.objective:
        fields["beams"] = str(setting.beams)
    distill(
        str(bench.teacher),
        setting.student,
        transfer=str(bench.text),
        objective=arm.objective,
        set=fields,
        **told,
        **run_options(bench, seed, out),
    )


def run_options(bench: Bench, seed: int, out: Path) -> dict[str, Any]:
    return {
        "out": out,
        "resume": out.exists(),
        "seed": seed,
        "batch_size": bench.setting.batch_size,
        "device": bench.device,
        "watch": bench.watch,
    }


def note(table: Table, bench: Bench, arm: str, seed: int, out: Path) -> dict[str, Any]:
    """Score a run, unless that was done, and return its row; every sentence's counts are kept."""
    found = next((row for row in table.rows if (row["arm"], row["seed"]) == (arm, seed)), None)
    if found is not None:
        return found
    text = open_text(bench.text / TEST, languages=("de", "en"))
    made = evaluate(str(out), text, batch_size=256, device=bench.device)
    counts = [
        bleu_counts(one, [other])
        for one, other in zip(made.translations, text.targets, strict=True)
    ]
    (out / COUNTS).write_text(json.dumps(counts))
    summary = json.loads((out / "summary.json").read_text())
    spent = out / "cpu_seconds"
    row: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "steps": summary["steps"],
        "seconds": summary["seconds"],
        "cpu_seconds": float(spent.read_text()) if spent.exists() else None,
        "parameters": summary["student_parameters"],
        "bleu": made.scores["bleu"].value,
        "signature": made.scores["bleu"].signature,
        "accuracy": made.scores["token_accuracy"].value,
        "nll": made.scores["nll"].value,
        "agreement": summary["agreement"] or 0.0,
        "count": made.count,
    }
    table.add(row, ("arm",))
    print(f"seed {seed} {arm}: BLEU {row['bleu']:.2f}, {row['seconds']:.0f} s", flush=True)
    return row


def gaps(bench: Bench, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return the gap of every arm that was measured, and whose rival was, in one seed at least."""
    return [
        gap(bench, arm, both)
        for arm in ARMS
        if arm.against != arm.name and (both := measured(bench, arm, seeds))
    ]


def measured(bench: Bench, arm: Arm, seeds: Sequence[int]) -> list[int]:
    """Return the seeds in which an arm and its rival were scored."""
    names = (arm.name, arm.against)
    return [one for one in seeds if all((bench.student(n, one) / COUNTS).exists() for n in names)]


def gap(bench: Bench, arm: Arm, seeds: Sequence[int]) -> dict[str, Any]:
    """Return how much BLEU an arm gains over the one it is compared with, and the 95 % interval.

    Translations of all seeds are one corpus; the bootstrap draws its sentences.
    """
    ours, theirs = (
        torch.tensor([json.loads((bench.student(name, one) / COUNTS).read_text()) for one in seeds])
        for name in (arm.name, arm.against)
    )
    one, other = ours.sum(0), theirs.sum(0)
    low, high, _ = paired_bootstrap(one.tolist(), other.tolist(), DRAWS, from_seed(DRAWS))
    found = bleu_of(one.sum(0).tolist()) - bleu_of(other.sum(0).tolist())
    told = {"arm": arm.name, "against": arm.against, "seeds": len(seeds)}
    return told | {"gap": found, "low": low, "high": high}


if __name__ == "__main__":
    main()
