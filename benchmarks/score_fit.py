"""Which diagnostics carry the transfer-set report, and how far does a prediction reach?

Reads what `score.py` measured on two tasks. Each diagnostic is ranked against the accuracy that
students reached (Spearman; 95 % interval by resampling the sets). Predictors are fitted on one task
and tested on the other, both ways; whatever is chosen, is chosen on the task they are fitted on:

    entropy    class entropy alone, the paper's criterion
    prior      pair_coverage, min_class_share, bn_distance, named before anything was measured here
    chosen     those of the candidates that leave the least leave-one-out error on the fitting task

The constants that the package carries are then fitted on both tasks with `prior`, which nothing
that was measured here has chosen. Their interval is as wide as the errors from task to task were:
it ranks sets well, and says little of the accuracy itself.

    python benchmarks/score_fit.py
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from understudy.audits.calibration import Calibration, Transform, error_of, fit_calibration

RESULTS = Path(__file__).parent / "results"
CONSTANTS = Path(__file__).parents[1] / "src" / "understudy" / "audits" / "calibration.json"
TASKS = ("digits", "cifar10")
# The set that says what the teacher's own images give in as many steps.
OWN = "own |"
RIDGE = 1.0
RESAMPLINGS = 2000

CANDIDATES: Mapping[str, Transform] = {
    "class_entropy": "identity",
    "min_class_share": "identity",
    "pair_coverage": "identity",
    "mutual_information": "identity",
    "near_boundary": "identity",
    "boundary_distance": "minus_log",
    "feature_coverage": "identity",
    "bn_distance": "minus_log",
}
MOST_CHOSEN = 4
PREDICTORS: Mapping[str, tuple[str, ...] | None] = {
    "entropy": ("class_entropy",),
    "prior": ("pair_coverage", "min_class_share", "bn_distance"),
    "chosen": None,
}

SHIPPED = "prior"

Rows = Sequence[Mapping[str, Any]]


def read(task: str) -> dict[str, Any]:
    """Return what was measured on a task, with the ratio of each set."""
    result: dict[str, Any] = json.loads((RESULTS / f"score_{task}.json").read_text())
    own = next(np.mean(row["accuracy"]) for row in result["rows"] if row["name"] == OWN)
    for row in result["rows"]:
        row["ratio"] = float(np.mean(row["accuracy"]) / own)
    return result


def spearman(scores: Sequence[float], ratios: Sequence[float]) -> dict[str, Any]:
    """Return the rank correlation and the interval of 95 % that other sets would leave it in.

    A diagnostic that is the same for every set ranks nothing: 0, with no interval.
    """
    x, y = np.array(scores), np.array(ratios)
    if np.ptp(x) == 0:
        return {"spearman": 0.0, "interval": None}
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLINGS):
        chosen = rng.integers(0, len(x), len(x))
        if np.ptp(x[chosen]) > 0 and np.ptp(y[chosen]) > 0:
            drawn.append(spearmanr(x[chosen], y[chosen]).statistic)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    value = spearmanr(x, y).statistic
    return {"spearman": round(float(value), 3), "interval": [round(low, 3), round(high, 3)]}


def both(scores: Sequence[float], rows: Rows) -> dict[str, Any]:
    """Return the rank correlation over all sets and over those that are not trivial."""
    kept = [(s, r["ratio"]) for s, r in zip(scores, rows, strict=True) if not r["trivial"]]
    return {
        "all": spearman(scores, [row["ratio"] for row in rows]),
        "without_trivial": spearman(*zip(*kept, strict=True)),
    }


def fitted(rows: Rows, names: Sequence[str], error: float = 0.0, **where: Any) -> Calibration:
    """Return the calibration of some sets with some diagnostics."""
    place = {"classes": (10, 10), "side": (8, 32), "tasks": ()} | where
    return fit_calibration(
        [row["fed"] for row in rows],
        [row["ratio"] for row in rows],
        {name: CANDIDATES[name] for name in names},
        ridge=RIDGE,
        error=error,
        **place,
    )


def left_out_error(rows: Rows, names: Sequence[str]) -> float:
    """Return the root mean square error of each set predicted from all others."""
    errors = []
    for i, row in enumerate(rows):
        others = [*rows[:i], *rows[i + 1 :]]
        errors.append(fitted(others, names).ratio(row["fed"]) - row["ratio"])
    return float(np.sqrt(np.mean(np.square(errors))))


def choose(rows: Rows) -> tuple[str, ...]:
    """Return the diagnostics that leave the least leave-one-out error on these sets."""
    subsets = [
        names
        for size in range(1, MOST_CHOSEN + 1)
        for names in itertools.combinations(CANDIDATES, size)
    ]
    best = min(subsets, key=lambda names: left_out_error(rows, names))
    return tuple(term.name for term in fitted(rows, best).terms if term.weight > 0)


def across(fitting: Rows, testing: Rows, names: Sequence[str]) -> dict[str, Any]:
    """Return how a predictor that was fitted on one task does on the other."""
    made = fitted(fitting, names)
    scores = [made.linear(row["fed"]) for row in testing]
    predicted = [made.ratio(row["fed"]) for row in testing]
    ratios = [row["ratio"] for row in testing]
    best = int(np.argmax(scores))
    return {
        "diagnostics": list(names),
        "weights": {term.name: round(term.weight, 4) for term in made.terms},
        **both(scores, testing),
        "mean_absolute_error": round(float(np.mean(np.abs(np.subtract(predicted, ratios)))), 3),
        "error_of_nine_in_ten": round(error_of(predicted, ratios), 3),
        "ranked_first": testing[best]["name"],
        "ranked_first_below_best": round(max(ratios) - ratios[best], 3),
        "predicted": {
            row["name"]: [round(p, 3), round(row["ratio"], 3)]
            for row, p in zip(testing, predicted, strict=True)
        },
    }


def by_verdict(rows: Rows) -> dict[str, Any]:
    """Return how many sets had each verdict and what ratio they reached."""
    found = {}
    for verdict in ("ok", "warn", "fail"):
        ratios = [row["ratio"] for row in rows if row["verdict"] == verdict]
        if ratios:
            found[verdict] = {
                "sets": len(ratios),
                "median_ratio": round(float(np.median(ratios)), 3),
                "range": [round(min(ratios), 3), round(max(ratios), 3)],
            }
    return found


def main() -> None:
    tasks = {name: read(name) for name in TASKS}
    rows = {name: task["rows"] for name, task in tasks.items()}
    chosen = {name: choose(of_task) for name, of_task in rows.items()}
    result: dict[str, Any] = {"question": __doc__.splitlines()[0], "ridge": RIDGE}
    result["sets"] = {name: len(of_task) for name, of_task in rows.items()}
    result["diagnostics"] = {
        stream: {
            name: {
                task: both([row[stream].get(name, 0.0) for row in of_task], of_task)
                for task, of_task in rows.items()
            }
            for name in rows["digits"][0]["fed"]
        }
        for stream in ("fed", "raw")
    }
    result["verdicts"] = {name: by_verdict(of_task) for name, of_task in rows.items()}
    result["within_task_error"] = {}
    result["across_tasks"] = {}
    directions = [(a, b) for a in TASKS for b in TASKS if a != b]
    for predictor, names in PREDICTORS.items():
        result["within_task_error"][predictor] = round(
            float(np.mean([left_out_error(rows[t], names or chosen[t]) for t in TASKS])), 4
        )
        result["across_tasks"][predictor] = {
            f"{a} to {b}": across(rows[a], rows[b], names or chosen[a]) for a, b in directions
        }
    pooled = [row for of_task in rows.values() for row in of_task]
    ways = result["across_tasks"][SHIPPED].values()
    made = fitted(
        pooled,
        PREDICTORS[SHIPPED] or (),
        max(found["error_of_nine_in_ten"] for found in ways),
        tasks=tuple(
            f"{name}: {task['student']}, {task['steps']} steps of {task['batch_size']}, "
            f"{len(task['rows'])} sets"
            for name, task in tasks.items()
        ),
    )
    result["shipped"] = {"predictor": SHIPPED, **made.to_json()}
    CONSTANTS.write_text(json.dumps(made.to_json(), indent=2) + "\n")
    (RESULTS / "score.json").write_text(json.dumps(result, indent=1) + "\n")
    tell(result)


def tell(result: Mapping[str, Any]) -> None:
    """Print what matters."""
    for name, of_task in result["diagnostics"]["fed"].items():
        told = [f"{t} {f['without_trivial']['spearman']:+.2f}" for t, f in of_task.items()]
        print(f"{name:24}", "  ".join(told), " (as fed, without trivial sets)")
    for predictor, ways in result["across_tasks"].items():
        for way, found in ways.items():
            figures = [
                f"{found[k]['spearman']:.2f} {found[k]['interval']}"
                for k in ("all", "without_trivial")
            ]
            print(f"{predictor:8} {way:18} {figures} {found['weights']}")
    print("shipped:", result["shipped"]["predictor"], "verdicts:", result["verdicts"])


if __name__ == "__main__":
    main()
