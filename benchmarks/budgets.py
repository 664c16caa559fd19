"""Is a budget kept? What `distill --budget` uses of the time that it was asked for, and for what.

Every row is the command as one types it, as a process of its own, timed on the wall from its start
to its end: getting ready (with start-up, planning and how the student begins), training, judging
with the audit, and the report with what else the command does at its end. `processor` is the share
of the wall time in which the process ran: where it is far below 1, the host had other work.

    DOUBLURE_DATA=... python benchmarks/budgets.py
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cifar10 import CHECKPOINTS
from experiments import RESULTS, provenance
from real_data import data_folder

RESULT = RESULTS / "budgets.json"
DOUBLURE = [sys.executable, "-m", "doublure"]
PUBLISHED = ("shader-kd", "fast-meta", "adaptive-deep-inversion", "dfad", "rdskd")
PAIRS = {
    "resnet20 -> resnet8": ("1m", "2m", "4m"),
    "digits, 8 pixels": ("40s", "1m", "2m"),
    "digits, 28 pixels": ("1m", "2m"),
}
# A budget is kept if no more than this is used, and well used from this on.
OVERRUN, USED = 1.02, 0.85
_UNITS = {"s": 1.0, "m": 60.0}


def asked(budget: str) -> float:
    """Return the seconds of a budget."""
    return float(budget[:-1]) * _UNITS[budget[-1]]


def teacher_of(pair: str) -> list[str]:
    """Return the words that name a teacher and a student; a teacher of digits is trained first."""
    if pair.startswith("resnet20"):
        weights = data_folder() / "cifar10-resnet" / CHECKPOINTS["resnet20"]
        described = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--size", "32")
        named = ("--teacher", "builtin/resnet20", "--weights", str(weights), "--classes", "10")
        return [*named, *described, "--student", "builtin/resnet8"]
    size = pair.split()[1]
    folder = Path(tempfile.gettempdir()) / f"budgets-digits-{size}"
    if not (folder / "report.html").exists():
        learned = ("--net", "builtin/convnet-32", "--data", "builtin/digits", "--size", size)
        length = ("--steps", "400", "--batch-size", "64", "--overwrite", "--out", str(folder))
        subprocess.run([*DOUBLURE, "train", *learned, *length], check=True, capture_output=True)
    return ["--teacher", str(folder), "--student", "builtin/convnet-16"]


def run(pair: str, budget: str, method: str) -> dict[str, Any]:
    """Run the command and return its row."""
    words = teacher_of(pair)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        command = [*DOUBLURE, "distill", *words, "--budget", budget, "--out", str(out)]
        command += [] if method == "auto" else ["--method", method]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        used = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr}")
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        log = (out / "log.txt").read_text(encoding="utf-8").splitlines()
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    parts = ("seconds_to_prepare", "seconds", "seconds_to_judge")
    preparing, training, judging = (summary[name] for name in parts)
    return {
        "pair": pair,
        "method": method,
        "asked": asked(budget),
        "used": used,
        "preparing": preparing,
        "training": training,
        "judging": judging,
        "reporting": used - preparing - training - judging,
        "steps": summary["steps"],
        "processor": processor / used,
        "load": os.getloadavg()[0],
        "plan": [line[20:] for line in log if line[20:].startswith(("budget", "plan"))],
        **provenance(),
    }


def lines_of(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table as text, with how many budgets were kept."""
    parts = ("asked", "used", "preparing", "training", "judging", "reporting")
    yield "| pair | method | " + " | ".join(parts) + " | steps | used, share | processor |"
    yield "| --- | --- |" + " ---: |" * (len(parts) + 3)
    for row in rows:
        seconds = " | ".join(f"{row[part]:.0f}" for part in parts)
        share = f"{row['used'] / row['asked']:.0%}"
        yield (
            f"| {row['pair']} | {row['method']} | {seconds} | {row['steps']:,} | {share} | "
            f"{row['processor']:.0%} |"
        )
    shares = [row["used"] / row["asked"] for row in rows]
    kept = sum(share <= OVERRUN for share in shares)
    used = sum(share >= USED for share in shares)
    yield (
        f"{kept} of {len(rows)} kept within {OVERRUN:.0%}, {used} used to {USED:.0%} or more; "
        f"median {statistics.median(shares):.0%}, from {min(shares):.0%} to {max(shares):.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--methods", nargs="+", default=["auto", *PUBLISHED])
    parser.add_argument("--budgets", nargs="+", help="in place of those of each pair")
    given = parser.parse_args()
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    for pair in given.pairs:
        for method in given.methods:
            # The published recipes at one length each; the default at all.
            own = PAIRS[pair] if method == "auto" else ("1m",)
            for budget in given.budgets or own:
                key = {"pair": pair, "method": method, "asked": asked(budget)}
                if any(key.items() <= row.items() for row in rows):
                    continue
                rows.append(run(pair, budget, method))
                print(json.dumps(rows[-1], indent=1), flush=True)
                told = {"question": __doc__.splitlines()[0], "rows": rows}
                RESULT.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines_of(rows)))


if __name__ == "__main__":
    main()
