"""By what should `score` rank transfer sets, and can it predict an accuracy?

Reads what `score.py` measured, and fits nothing that ranks. On each task every ranker is held
against the accuracy that students reached (Spearman; 95 % interval by resampling the sets): over
all sets, without those that nobody would train on, and without the teacher's own images, which
nobody has who needs the score.

    score            what the package ships, called as the package calls it
    bn_distance, pair_coverage, class_entropy
                     one figure alone; class entropy is the paper's loss
    bn_distance / pair_coverage
                     two figures, and no constants
    three fitted     pair_coverage, min_class_share, bn_distance by ridge regression
    chosen, fitted   the figures with the least leave-one-out error
    a constant       ranks nothing: 0

What is fitted is fitted on the *other* tasks alone. A combination is shipped only if it ranks
better than the best single figure on every task that it was not fitted on, beyond the interval of
their difference; else the single figure is.

An accuracy is predicted by the shipped figure, fitted on the other tasks, beside a constant, the
mean of those tasks. The constants that the package carries are then fitted on all tasks; the error
that they carry is the largest that any task was missed by, and `doublure.audits.calibration`
predicts nothing unless it is small.

    python benchmarks/score_fit.py
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from doublure.audits.calibration import (
    WIDEST,
    Calibration,
    Transform,
    error_of,
    fit_calibration,
)
from doublure.audits.ranking import goodness

RESULTS = Path(__file__).parent / "results"
CONSTANTS = Path(__file__).parents[1] / "src" / "doublure" / "audits" / "calibration.json"
TASKS = ("digits", "cifar10", "castings")
# The set that says what the teacher's own images give in as many steps.
OWN = "own |"
RIDGE = 1.0
RESAMPLINGS = 2000
# A set that shows no pair of classes ranks last, not nowhere.
LEAST_PAIRS = 0.01

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
MOST_CHOSEN = 3
# What an accuracy is predicted from: what sets are ranked by.
PREDICTED_FROM = ("bn_distance",)
THREE = ("pair_coverage", "min_class_share", "bn_distance")

Row = Mapping[str, Any]
Rows = Sequence[Row]
Ranker = Callable[[Mapping[str, float]], float]

SHIPPED = "score"
RANKERS: Mapping[str, Ranker] = {
    SHIPPED: goodness,
    "bn_distance": lambda figures: -figures["bn_distance"],
    "pair_coverage": lambda figures: figures["pair_coverage"],
    "class_entropy": lambda figures: figures["class_entropy"],
    "bn_distance / pair_coverage": lambda figures: (
        math.log(max(figures["pair_coverage"], LEAST_PAIRS)) - math.log(figures["bn_distance"])
    ),
    "a constant": lambda figures: 0.0,
}
PARTS: Mapping[str, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "without_trivial": lambda row: not row["trivial"],
    "foreign": lambda row: not row["trivial"] and not row["name"].startswith("own"),
}


def read(task: str) -> dict[str, Any]:
    """Return what was measured on a task, with the mean accuracy and the ratio of each set."""
    result: dict[str, Any] = json.loads((RESULTS / f"score_{task}.json").read_text())
    for row in result["rows"]:
        row["reached"] = float(np.mean(row["accuracy"]))
    own = next(row["reached"] for row in result["rows"] if row["name"] == OWN)
    for row in result["rows"]:
        row["ratio"] = row["reached"] / own
    return result


def correlations(scores: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Return the rank correlation of each row [rows, sets]; what is alike for all ranks nothing: 0.

    Spearman's: Pearson's of the ranks, ties at their mean rank.
    """
    x, y = (rankdata(values, axis=1) for values in (scores, reached))
    x, y = (ranks - ranks.mean(1, keepdims=True) for ranks in (x, y))
    norm = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), norm, out=np.zeros(len(x)), where=norm > 0)


def drawn(values: Sequence[float]) -> np.ndarray:
    """Return the values of all sets, then of each resampling of them; alike for every ranker."""
    count = len(values)
    chosen = np.random.default_rng(0).integers(0, count, (RESAMPLINGS, count))
    return np.array(values)[np.concatenate([np.arange(count)[None], chosen])]


def of_sets(scores: Sequence[float], rows: Rows) -> np.ndarray:
    """Return the rank correlation over all sets, then over each resampling of them."""
    return correlations(drawn(scores), drawn([row["reached"] for row in rows]))


def interval(found: np.ndarray) -> list[float]:
    """Return the interval of 95 % of what the resamplings gave."""
    return [round(float(v), 3) for v in np.quantile(found[1:], [0.025, 0.975])]


def spearman(scores: Sequence[float], rows: Rows) -> dict[str, Any]:
    """Return the rank correlation and the interval of 95 % that other sets would leave it in."""
    found = of_sets(scores, rows)
    return {
        "spearman": round(float(found[0]), 3),
        "interval": None if np.ptp(scores) == 0 else interval(found),
        "sets": len(rows),
    }


def gain(ours: Sequence[float], theirs: Sequence[float], rows: Rows) -> list[float]:
    """Return by how much one ranker is better than another, and the interval of 95 %."""
    found = of_sets(ours, rows) - of_sets(theirs, rows)
    return [round(float(found[0]), 3), *interval(found)]


def fitted(rows: Rows, names: Sequence[str], error: float = 0.0, **where: Any) -> Calibration:
    """Return the calibration of some sets with some diagnostics."""
    place = {"classes": (10, 10), "side": (8, 32), "count": 0, "tasks": ()} | where
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


def rankers_for(others: Rows) -> dict[str, Ranker]:
    """Return every ranker, those that are fitted on the sets of other tasks among them."""
    three, chosen = fitted(others, THREE), fitted(others, choose(others))
    return {**RANKERS, "three fitted": three.linear, "chosen, fitted": chosen.linear}


def ranked(rows: Rows, rankers: Mapping[str, Ranker]) -> dict[str, Any]:
    """Return how each ranker does on one part of the sets of a task."""
    scores = {name: [rank(row["fed"]) for row in rows] for name, rank in rankers.items()}
    best = max(rows, key=lambda row: row["reached"])
    found = {}
    for name, values in scores.items():
        first = rows[int(np.argmax(values))]
        found[name] = {
            **spearman(values, rows),
            "score_gains": gain(scores[SHIPPED], values, rows),
            "first": None if np.ptp(values) == 0 else first["name"],
            "first_reaches": None if np.ptp(values) == 0 else round(first["reached"], 4),
            "best": best["name"],
            "best_reaches": round(best["reached"], 4),
        }
    return found


def predicted(rows: Rows, others: Rows) -> dict[str, Any]:
    """Return how far a prediction that was fitted on other tasks is off, and how far a constant."""
    made = fitted(others, PREDICTED_FROM)
    ratios = [row["ratio"] for row in rows]
    constant = float(np.mean([row["ratio"] for row in others]))
    told = {}
    for name, values in {
        "score": [made.ratio(row["fed"]) for row in rows],
        "a constant": [constant] * len(rows),
    }.items():
        told[name] = {
            "mean_absolute_error": round(float(np.mean(np.abs(np.subtract(values, ratios)))), 3),
            "error_of_nine_in_ten": round(error_of(values, ratios), 3),
        }
    return told


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


def of_figures(stream: str, rows: Mapping[str, Rows]) -> dict[str, Any]:
    """Return the rank correlation of each figure on each task; those of higher rank first."""
    names = dict.fromkeys(name for task in rows.values() for name in task[0][stream])
    return {
        name: {
            task: spearman([row[stream].get(name, 0.0) for row in of_task], of_task)
            for task, of_task in rows.items()
        }
        for name in names
    }


def main() -> None:
    tasks = {name: read(name) for name in TASKS if (RESULTS / f"score_{name}.json").exists()}
    rows: dict[str, list[Row]] = {name: task["rows"] for name, task in tasks.items()}
    result: dict[str, Any] = {"question": __doc__.splitlines()[0], "ridge": RIDGE}
    result["tasks"] = {
        name: {key: task[key] for key in ("classes", "size", "student", "steps", "scored_images")}
        | {"sets": len(task["rows"]), "teacher_accuracy": task["teacher_accuracy"]}
        for name, task in tasks.items()
    }
    result["ranked"], result["predicted"] = {}, {}
    for name, of_task in rows.items():
        others = [row for other in rows if other != name for row in rows[other]]
        rankers = rankers_for(others)
        result["ranked"][name] = {
            part: ranked([row for row in of_task if kept(row)], rankers)
            for part, kept in PARTS.items()
        }
        result["predicted"][name] = predicted(of_task, others)
    result["diagnostics"] = {stream: of_figures(stream, rows) for stream in ("fed", "raw")}
    result["verdicts"] = {name: by_verdict(of_task) for name, of_task in rows.items()}
    error = max(found["score"]["error_of_nine_in_ten"] for found in result["predicted"].values())
    shapes = [task["size"] for task in tasks.values()]
    classes = [task["classes"] for task in tasks.values()]
    (count,) = {task["scored_images"] for task in tasks.values()}
    made = fitted(
        [row for of_task in rows.values() for row in of_task],
        PREDICTED_FROM,
        error,
        classes=(min(classes), max(classes)),
        side=(min(map(min, shapes)), max(map(max, shapes))),
        count=count,
        tasks=tuple(
            f"{name}: {task['student']}, {task['steps']} steps of {task['batch_size']}, "
            f"{len(task['rows'])} sets"
            for name, task in tasks.items()
        ),
    )
    result["calibration"] = {"widest": WIDEST, **made.to_json()}
    CONSTANTS.write_text(json.dumps(made.to_json(), indent=2) + "\n")
    (RESULTS / "score.json").write_text(json.dumps(result, indent=1) + "\n")
    tell(result)


def tell(result: Mapping[str, Any]) -> None:
    """Print what matters."""
    for task, parts in result["ranked"].items():
        for part, rankers in parts.items():
            for name, found in rankers.items():
                print(
                    f"{task:9} {part:16} {name:28} {found['spearman']:+.2f} {found['interval']} "
                    f"score gains {found['score_gains']} first {found['first_reaches']} "
                    f"of {found['best_reaches']}"
                )
    for task, found in result["predicted"].items():
        print(task, found)
    print("verdicts:", result["verdicts"])


if __name__ == "__main__":
    main()
