"""How close does a student that never saw a digit come to its teacher, over seeds?

The demonstration's teacher, student and arms, with a teacher of its own for every seed, at equal
steps; 500 digits that no network saw are the judge. The interval is Student's t over the seeds.

    python benchmarks/digits.py --seeds 0 1 2 3 4
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from doublure.verbs.demo import BATCH, STEPS, STUDENT, TEACHER, TEACHER_STEPS, run_arms
from experiments import Table, interval, of_one_host, print_table, summarize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    torch.set_num_threads(1)
    setting = {
        "pair": f"{TEACHER} -> {STUDENT}",
        "teacher_steps": TEACHER_STEPS,
        "steps": STEPS,
        "batch_size": BATCH,
    }
    table = Table("digits", __doc__.splitlines()[0], setting)
    for seed in given.seeds:
        if table.has(seed=seed):
            continue
        with tempfile.TemporaryDirectory() as folder:
            teacher, arms = run_arms(Path(folder), seed=seed)
        for arm in arms:
            row = {"arm": arm["name"], "seed": seed, "steps": STEPS, **arm}
            row |= {"teacher_accuracy": teacher["accuracy"]}
            row |= {"kept": arm["accuracy"] / teacher["accuracy"]}
            table.add(row, ("arm",))
            print(f"seed {seed} {arm['name']}: {arm['accuracy']:.2%}, {row['kept']:.2%} kept")
    table.extend(
        kept={name: share_kept(table, name) for name in {row["arm"] for row in table.rows}}
    )
    print_table(summarize(table.rows, ("arm",)))
    for name, (mean, low, high) in table.head["kept"].items():
        print(f"{name}: keeps {mean:.2%} of the teacher's accuracy, 95 %: {low:.2%} to {high:.2%}")


def share_kept(table: Table, arm: str) -> tuple[float, float, float]:
    """Return mean and 95 % interval of the share of the teacher's accuracy that an arm keeps."""
    kept = [row["kept"] for row in of_one_host(table.rows) if row["arm"] == arm]
    mean = statistics.mean(kept)
    if len(kept) < 2:
        return mean, mean, mean
    return mean, *interval(kept)


if __name__ == "__main__":
    main()
