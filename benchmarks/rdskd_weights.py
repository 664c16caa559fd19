"""Do exponentials spare RDSKD the weights between its losses, as its paper says?

The generator's loss is a sum of exponentials of how far authenticity and class diversity have risen
above earlier values, or their plain sum. Either is trained with equal weights, and with a weight of
one of the two ten times too large or too small (inside of the exponent, so that it is a weight of
the gradient at the reference in both). Five students a combination and seed, of the demonstration's
pair on scikit-learn's digits: the spread is the best of the five less the worst.

    python benchmarks/rdskd_weights.py --seeds 0 1 2 3 4
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from doublure.recipe_file import replace_fields
from experiments import Arm, Table, interval, of_one_host
from methods import Length, close, fill
from sources_digits import BATCH, STEPS, STUDENT, TEACHER, arms, teacher_of

COMBINATIONS = ("exponential", "sum")
TERMS = ("authenticity", "class_diversity")
FACTORS = (0.1, 10.0)
# What is told of five students.
FIGURES = ("spread", "worst", "mean")


def weighted(published: Arm) -> dict[str, list[Arm]]:
    """Return RDSKD by either combination, as it is and with one weight too large or too small."""
    stage = published.stage
    assert stage is not None
    changes = [{}, *({term: str(factor)} for term in TERMS for factor in FACTORS)]
    return {
        combination: [
            Arm(
                name=", ".join((combination, *(f"{term} x {x}" for term, x in change.items()))),
                stage=replace(
                    stage,
                    source=replace_fields(stage.source, {"combination": combination, **change}),
                ),
            )
            for change in changes
        ]
        for combination in COMBINATIONS
    }


def robustness(
    rows: Sequence[dict[str, Any]], known: dict[str, list[Arm]]
) -> dict[str, dict[str, list[float]]]:
    """Return spread, worst and mean accuracy over weights, with 95 % intervals over seeds.

    Of either combination, and of the exponentials less the plain sum, seed by seed.
    """
    by = {(row["arm"], row["seed"]): row["accuracy"] for row in rows}
    names = [arm.name for combination in COMBINATIONS for arm in known[combination]]
    whole = [s for s in sorted({seed for _, seed in by}) if all((n, s) in by for n in names)]
    if len(whole) < 2:
        return {}
    told: dict[str, dict[str, list[float]]] = {name: {} for name in (*COMBINATIONS, "difference")}
    figures = {
        (combination, seed): _figures([by[arm.name, seed] for arm in known[combination]])
        for combination in COMBINATIONS
        for seed in whole
    }
    for figure in FIGURES:
        of = {c: [figures[c, seed][figure] for seed in whole] for c in COMBINATIONS}
        one, other = (of[combination] for combination in COMBINATIONS)
        of["difference"] = [a - b for a, b in zip(one, other, strict=True)]
        for name, values in of.items():
            told[name][figure] = [statistics.mean(values), *interval(values)]
    return told


def _figures(accuracies: Sequence[float]) -> dict[str, float]:
    best, worst = max(accuracies), min(accuracies)
    return {"spread": best - worst, "worst": worst, "mean": statistics.mean(accuracies)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--name", default="rdskd_weights", help="of the results file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    told = {"pair": f"{TEACHER} -> {STUDENT}", "batch_size": BATCH, "steps": given.steps}
    table = Table(given.name, __doc__.splitlines()[0], told)
    known = weighted(arms(Path())["RDSKD"])
    chosen = [arm for combination in COMBINATIONS for arm in known[combination]]
    asked = Length(given.steps, "steps")
    for seed in given.seeds:
        if all(table.has(arm=arm.name, seed=seed, at=str(asked)) for arm in chosen):
            continue
        with tempfile.TemporaryDirectory() as folder:
            setting, teacher, test = teacher_of(seed, Path(folder))
            fill(table, chosen, setting, (teacher, test), seed, asked)
    found = robustness([row for row in of_one_host(table.rows) if row["at"] == str(asked)], known)
    twins = [(a.name, b.name) for a, b in zip(*known.values(), strict=True)]
    close(table, twins, robustness=found)
    for name, figures in found.items():
        for figure, (mean, low, high) in figures.items():
            print(f"{name:14}{figure:8}{mean:8.2%} ({low:.2%} to {high:.2%})")


if __name__ == "__main__":
    main()
