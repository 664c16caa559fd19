"""Does a run that is killed at any instant end with the same student, byte for byte?

A student of digits' size learns from dead leaves that are balanced, augmented, mixed and attacked:
every part whose state a checkpoint has to hold. The process is killed (SIGKILL) at random moments
of its life, from the import of torch to the report, started again with `resume` and killed again;
in the end `doublure distill --resume` finishes it.

    python benchmarks/resume.py
"""

import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "resume.json"
# Those that fall while it trains are counted; those before and behind come on top.
KILLS, KILLS_A_RUN = 20, 3
STEPS, LINES = 120, 24


def learn(teacher: Path, out: Path, steps: int = STEPS, *, resume: bool = False) -> dict[str, Any]:
    """Distil with everything a checkpoint has to hold, and save ten times a second."""
    import torch

    from doublure.sources.augmentation import Augmented
    from doublure.sources.balanced import Balanced
    from doublure.sources.leaves import Leaves
    from doublure.sources.mixing import Mixed
    from doublure.verbs.distill import distill

    torch.set_num_threads(1)
    pool = Balanced(source=Leaves(), pool_size=400, chunk=32, attacks_per_chunk=8)
    return distill(
        str(teacher),
        "builtin/convnet-4",
        out=out,
        method="shader-kd",
        transfer=Mixed(source=Augmented(source=pool)),
        without=("balance",),
        steps=steps,
        batch_size=32,
        set={
            "log_every": str(steps // LINES),
            "ema_decay": "0.9",
            "stages.0.source.attack.num_steps": "4",
        },
        resume=resume,
        audit=False,
        checkpoint_seconds=0.1,
    )


def teach(out: Path) -> None:
    """Train the network that teaches."""
    from doublure.verbs.train import train

    train("builtin/convnet-6", "builtin/digits", out=out, steps=60, batch_size=64)


def start(teacher: Path, out: Path, steps: int = STEPS) -> subprocess.Popen[bytes]:
    """Start a run, or go on with it, in a process of its own."""
    words = [sys.executable, __file__, str(teacher), str(out), str(steps)]
    return subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"})


def finish(out: Path) -> None:
    """Let the command finish a run."""
    words = ["distill", "--recipe", str(out / "recipe.toml"), "--out", str(out), "--resume"]
    command = [sys.executable, "-c", "from doublure.cli.main import run; run()", *words]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process without letting it know."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def digest(out: Path) -> str:
    """Return what tells one student from another."""
    return hashlib.sha256((out / "student.safetensors").read_bytes()).hexdigest()


def reached(out: Path) -> int | None:
    """Return the last step in the metrics log; None before there is one."""
    metrics_log = out / "metrics.jsonl"
    if not metrics_log.exists():
        return None
    lines = metrics_log.read_text(encoding="utf-8").splitlines()
    whole = [line for line in lines if line.endswith("}")]
    return json.loads(whole[-1])["step"] if whole else 0


def wait_for(process: subprocess.Popen[bytes], out: Path, step: int) -> bool:
    """Wait until a run has reached a step; return whether it still lives."""
    while process.poll() is None and (reached(out) or 0) < step:
        time.sleep(0.005)
    return process.poll() is None


def killed_run(teacher: Path, out: Path, seed: int) -> list[dict[str, Any]]:
    """Kill a run at random moments, each further on, then let it finish; say when it happened.

    Some fall into the start of a process, before it takes a step, and some behind the last step.
    """
    chance = random.Random(seed)
    told: list[dict[str, Any]] = []
    for moment in sorted(chance.uniform(-0.1, 1.1) for _ in range(KILLS_A_RUN)):
        process, step = start(teacher, out), round(moment * STEPS)
        lives = wait_for(process, out, min(max(step, 0), STEPS))
        # A while of the start, of a step, or of what comes after the last.
        time.sleep(chance.uniform(0, 0.2 if 0 < step < STEPS else 3.0))
        if not lives or process.poll() is not None:
            break
        kill(process)
        at, kept = reached(out), saved(out)
        inside = at is not None and at < STEPS
        told.append({"aimed_at": step, "step": at, "saved": kept, "while_training": inside})
    process.wait()
    if not (out / "recipe.toml").exists():
        learn(teacher, out, resume=True)
    finish(out)
    return told


def saved(out: Path) -> int | None:
    """Return the step of the checkpoint; None before there is one."""
    import torch

    path = out / "checkpoint" / "stage0.pt"
    return int(torch.load(path, weights_only=True)["step"]) if path.exists() else None


def measure(folder: Path) -> dict[str, Any]:
    teacher, whole = folder / "teacher", folder / "whole"
    teach(teacher)
    assert start(teacher, whole).wait() == 0
    runs: list[dict[str, Any]] = []
    while sum(kill["while_training"] for run in runs for kill in run["kills"]) < KILLS:
        seed = len(runs)
        out = folder / f"killed-{seed}"
        kills = killed_run(teacher, out, seed)
        metrics_log = [
            json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()
        ]
        told = [line["step"] for line in metrics_log]
        runs.append(
            {
                "seed": seed,
                "kills": kills,
                "same_student": digest(out) == digest(whole),
                "whole_journal": told == [STEPS // LINES * (i + 1) for i in range(LINES)],
            }
        )
        print(json.dumps(runs[-1]), flush=True)
    return {
        "kills": sum(len(run["kills"]) for run in runs),
        "while_training": sum(kill["while_training"] for run in runs for kill in run["kills"]),
        "same_students": sum(run["same_student"] for run in runs),
        "of": len(runs),
        "runs": runs,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "question": __doc__.splitlines()[0],
            "steps": STEPS,
            **measure(Path(folder)),
            "versions": {"python": platform.python_version(), "torch": version("torch")},
        }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        learn(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), resume=True)
    else:
        main()
