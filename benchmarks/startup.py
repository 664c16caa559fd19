"""How long does the command take to answer where no work is asked of it?

Each call is a process of its own, timed from its start to its end, in turn with the bare
interpreter and with the import of torch, which no help text may pay for. The user's time of the
processor is told as well: it does not count what else the machine was doing.

    python benchmarks/startup.py
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "startup.json"
TARGET, ROUNDS = 0.5, 15
DOUBLURE = [sys.executable, "-c", "from doublure.cli.main import run; run()"]
CALLS = {
    "the bare interpreter": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "doublure --version": [*DOUBLURE, "--version"],
    "doublure --help": [*DOUBLURE, "--help"],
    "doublure distill --help": [*DOUBLURE, "distill", "--help"],
    "doublure synthesize --help": [*DOUBLURE, "synthesize", "--help"],
    "doublure distil (refused)": [*DOUBLURE, "distil"],
    "import doublure": [sys.executable, "-c", "import doublure"],
}


def timed(words: list[str]) -> tuple[float, float]:
    """Return seconds by the clock and of the processor that a call takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    subprocess.run(words, capture_output=True, env=os.environ | {"COLUMNS": "80"})
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure() -> dict[str, Any]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CALLS}
    for words in CALLS.values():
        timed(words)  # so that every file has been read once
    for _ in range(ROUNDS):
        for name, words in CALLS.items():
            times[name].append(timed(words))
    told = {}
    for name, pairs in times.items():
        clock, processor = zip(*pairs, strict=True)
        told[name] = {
            "seconds": round(statistics.median(clock), 3),
            "fastest": round(min(clock), 3),
            "slowest": round(max(clock), 3),
            "processor_seconds": round(statistics.median(processor), 3),
        }
    return told


def main() -> None:
    calls = measure()
    result = {
        "question": __doc__.splitlines()[0],
        "target_seconds": TARGET,
        "rounds": ROUNDS,
        "processors": os.cpu_count(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "calls": calls,
        "versions": {
            "python": platform.python_version(),
            "typer": version("typer"),
            "rich": version("rich"),
            "torch": version("torch"),
        },
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
