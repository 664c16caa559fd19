"""How much BLEU does a small translator gain from its teacher, and from which of its sentences?

Captions of Multi30k, German into English, from `$UNDERSTUDY_DATA/multi30k-en-de.tar.xz`. The
teacher learns from the corpus. Students of a seed start from equal weights. First arms of equal
steps from random weights: the corpus alone, forward divergence behind it, the teacher's sentences.
Then arms of equal steps that go on from the forward student at a third of the rate: forward
again, and reverse and mixed divergences behind the corpus and behind the student's own sentences,
which take longer a step; `seconds` says how much. Greedy decoding everywhere; the 95 % interval is
a paired bootstrap against the first arm of the same phase. Nothing is chosen by test sentences.

    python benchmarks/translation.py --work FOLDER --seeds 0 1 2

Runs go on where they were killed, rows are written one by one.
"""

import argparse
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments import Table
from understudy.data.parallel_text import open_text
from understudy.seeding import child_seed, from_seed
from understudy.tasks.translation import bleu_counts, paired_bootstrap
from understudy.verbs.distill import distill
from understudy.verbs.evaluate import evaluate
from understudy.verbs.train import train

TEST = "test_2016_flickr"
DRAWS = 1000
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


def going_on(name: str, objective: tuple[str, ...], share: float, **fields: str) -> Arm:
    told = {"on-policy.share": str(share)} | {k.replace("_", "."): v for k, v in fields.items()}
    told |= AT_ONE if objective == FORWARD else {}
    return Arm(name=name, objective=objective, fields=told, after=WARM, against="forward, longer")


FORWARD = ("soft-targets",)
REVERSE = ("divergence",)
ARMS = (
    Arm(name="alone"),
    Arm(name=WARM, objective=FORWARD, fields=AT_ONE),
    Arm(name="sequence-level"),
    going_on("forward, longer", FORWARD, 0.0),
    going_on("reverse, corpus", REVERSE, 0.0),
    going_on("reverse on-policy", REVERSE, 1.0),
    going_on("reverse half on-policy", REVERSE, 0.5),
    going_on("reverse on-policy + return to go", (*REVERSE, "return-to-go"), 1.0),
    going_on("jensen-shannon on-policy", REVERSE, 1.0, divergence_form="jensen-shannon"),
)


def main() -> None:
    given = options()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    data = unpacked(given.work)
    setting = {
        "pair": f"{given.teacher} -> {given.student}",
        "teacher_steps": given.teacher_steps,
        "steps": given.steps,
        "later_steps": given.later_steps,
        "batch_size": given.batch_size,
        "test": TEST,
    }
    table = Table(given.name, "What does a small translator gain from its teacher?", setting)
    teacher = given.work / "teacher"
    if not finished(teacher):
        train(
            given.teacher,
            f"{data}:de-en",
            out=teacher,
            resume=teacher.exists(),
            steps=given.teacher_steps,
            batch_size=given.batch_size,
            set={"student.pieces": str(given.pieces)},
        )
    if not table.has(arm="teacher"):
        note(table, given, data, "teacher", 0, teacher, None)
    for seed in given.seeds:
        for arm in ARMS:
            out = given.work / f"{arm.name.replace(' ', '-').replace(',', '')}-{seed}"
            if not finished(out):
                learn(arm, seed, given, data, teacher, out)
            if not table.has(arm=arm.name, seed=seed):
                against = given.work / f"{arm.against.replace(' ', '-').replace(',', '')}-{seed}"
                note(table, given, data, arm.name, seed, out, against)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--name", default="translation", help="of the results file")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--teacher", default="builtin/translator-6-128")
    parser.add_argument("--student", default="builtin/translator-2-64")
    parser.add_argument("--teacher-steps", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--later-steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pieces", type=int, default=4000)
    given = parser.parse_args()
    if "UNDERSTUDY_DATA" not in os.environ:
        parser.exit(0, "UNDERSTUDY_DATA is not set: nothing to measure\n")
    return given


def unpacked(work: Path) -> Path:
    """Return the folder of the corpus."""
    folder = work / "text"
    if not folder.exists():
        archive = Path(os.environ["UNDERSTUDY_DATA"]) / "multi30k-en-de.tar.xz"
        with tarfile.open(archive) as packed:
            packed.extractall(folder.with_suffix(".part"), filter="data")
        folder.with_suffix(".part").rename(folder)
    return folder


def finished(out: Path) -> bool:
    return (out / "summary.json").exists()


def learn(
    arm: Arm, seed: int, given: argparse.Namespace, data: Path, teacher: Path, out: Path
) -> None:
    """Make the student of an arm, or go on with it."""
    common: dict[str, Any] = {
        "out": out,
        "resume": out.exists(),
        "seed": seed,
        "steps": given.later_steps if arm.after else given.steps,
        "batch_size": given.batch_size,
    }
    if arm.name == "alone":
        # The vocabulary is learned again from the same corpus, and is the same.
        pieces = {"student.pieces": str(given.pieces)}
        train(given.student, f"{data}:de-en", set=pieces, **common)
        return
    if arm.after:
        common["init_from"] = str(given.work / f"{arm.after}-{seed}" / "student.safetensors")
        common["lr"] = 3e-4
    distill(
        str(teacher),
        given.student,
        transfer=str(data),
        objective=arm.objective,
        set=dict(arm.fields),
        **common,
    )


def note(
    table: Table,
    given: argparse.Namespace,
    data: Path,
    arm: str,
    seed: int,
    out: Path,
    against: Path | None,
) -> None:
    """Score a run and add its row; counts of every sentence are kept beside it."""
    text = open_text(data / TEST, languages=("de", "en"))
    made = evaluate(str(out), text, batch_size=64)
    counts = [
        bleu_counts(one, [other])
        for one, other in zip(made.translations, text.targets, strict=True)
    ]
    (out / "counts.json").write_text(json.dumps(counts))
    summary = json.loads((out / "summary.json").read_text())
    row: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "steps": summary["steps"],
        "seconds": summary["seconds"],
        "parameters": summary["student_parameters"],
        "bleu": made.scores["bleu"].value,
        "signature": made.scores["bleu"].signature,
        "accuracy": made.scores["token_accuracy"].value,
        "nll": made.scores["nll"].value,
        "agreement": summary["agreement"] or 0.0,
        "count": made.count,
    }
    if against is not None and against != out:
        theirs = json.loads((against / "counts.json").read_text())
        rng = from_seed(child_seed(seed, "bootstrap"))
        low, high, share = paired_bootstrap(counts, theirs, DRAWS, rng)
        row |= {"against": against.name, "gap_low": low, "gap_high": high, "not_better": share}
    table.add(row, ("arm",))
    print(f"seed {seed} {arm}: BLEU {row['bleu']:.2f}, {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
