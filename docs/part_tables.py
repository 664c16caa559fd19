"""Tables of what parts do, by results file: exports, images, speed, resuming and scores."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cells import PLUS_MINUS, Result, percent, points, ranked, spread, table


def _evaluated(result: Result) -> str:
    rows = [
        [
            row["network"],
            f"{row['parameters']:,}",
            f"{100 * row['accuracy']:.2f} %",
            f"{row['correct']:,} of {row['count']:,}",
            percent(row["expected"]),
        ]
        for row in result["rows"]
    ]
    return table(("network", "parameters", "accuracy", "right", "known of it"), rows)


def _segmentation(result: Result) -> str:
    parts = []
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault(row["at"], []).append(row)
    for at, rows in groups.items():
        arms = dict.fromkeys(row["arm"] for row in rows)
        made = []
        for arm in arms:
            own = [row for row in rows if row["arm"] == arm]
            told = [_share(own, name) for name in ("accuracy", "unseen", "pixel_accuracy")]
            seconds = statistics.mean(row["seconds"] for row in own)
            made.append([arm, len(own), *told, _share(own, "agreement"), f"{seconds:,.0f}"])
        heads = (f"at {at}", "seeds", "mIoU, %", "of the drive never seen", "pixel accuracy")
        parts.append(table((*heads, "agreement", "CPU seconds"), made))
    return "\n\n".join(parts)


def _share(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return mean and standard deviation over the seeds, in percent."""
    values = [100 * row[name] for row in rows if row[name] is not None]
    if not values:
        return "—"
    spread = f" {PLUS_MINUS} {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _int8(result: Result) -> str:
    rows = []
    for row in result["rows"]:
        by = {
            item["images"]: item
            for item in reversed(row.get("calibrated", ()))
            if item["settings"]["method"] == "minmax"
        }
        changes = [
            f"{points(by[kind]['mean_points'])} {PLUS_MINUS} {by[kind]['spread_points']:.2f}"
            if kind in by
            else "—"
            for kind in ("real", "shaders", "noise")
        ]
        speed = row["speed"]
        rows.append(
            [
                row["network"],
                *changes,
                f"{row['bytes_ratio']:.2f}",
                f"{speed['int8_one_image']:.1f}",
                f"{speed['int8_in_batches']:.1f}",
            ]
        )
    heads = (
        *("network", "points, real images", "points, shaders", "points, noise"),
        *("bytes", "speed, one image", "speed, batches"),
    )
    told = (
        "Change of accuracy in points when float32 ONNX becomes int8, by what it was calibrated "
        "on (512 images, three seeds); bytes and speed as a multiple of float32 ONNX, on one "
        "thread. A dash: not trained, so there is no accuracy to lose."
    )
    return f"{told}\n\n{table(heads, rows)}" + _int8_bits(result)


def _int8_bits(result: Result) -> str:
    """Return what the eighth bit of weights does to the files calibrated on shader images."""
    rows = [
        [
            row["network"],
            "7" if item["settings"]["reduce_range"] else "8",
            f"{points(item['mean_points'])} {PLUS_MINUS} {item['spread_points']:.2f}",
            percent(item["last_agreement"]),
            percent(item["last_agreement_by_rounding"]),
        ]
        for row in result["rows"]
        for item in row.get("calibrated", ())
        if item["images"] == "shaders" and "last_agreement_by_rounding" in item
    ]
    if not rows:
        return ""
    heads = ("network", "bits of weights", "points", "agreement", "by rounding alone")
    kernels = "with VNNI" if result["vnni"] else "without VNNI, whose kernels saturate at 8 bits"
    told = (
        f"The same on shader images by the bits of the weights, on a processor {kernels}: change "
        "of accuracy, share of answers that are float32's, and what that share is where the "
        "file's operations are computed one by one in float arithmetic (both of the last seed)."
    )
    return f"\n\n{told}\n\n{table(heads, rows)}"


def _inversion(result: Result) -> str:
    ordered = sorted(result["arms"], key=lambda arm: -(arm["judge_accuracy"] or 0.0))
    rows = [
        [
            arm["arm"],
            *(
                spread(arm[figure], arm[f"{figure}_sd"], arm["seeds"])
                for figure in ("judge_accuracy", "own_accuracy")
            ),
            f"{arm['feature_distance']:.0f}",
            f"{arm['divergence']:.2f}",
            f"{arm['image_passes']:,.0f}",
        ]
        for arm in ordered
        if arm["judge_accuracy"] is not None
    ]
    told = (
        "Share of the images that are called by their intended classes, in %, by the public "
        "ResNet-20, which had no part in them, and by the ResNet-56 that was inverted; distance "
        f"and divergence from that one's BatchNorm statistics. {result['setting']['count']} images "
        f"a seed, {result['setting']['iterations']} iterations."
    )
    heads = (
        *("images", "by the other network", "by their own"),
        *("feature distance", "divergence", "passes of images"),
    )
    return f"{told}\n\n{table(heads, rows)}"


def _short_inversion(result: Result) -> str:
    """Return images by pair and arm, and what an iteration costs."""
    heads = (
        *("inverted -> asked", "images", "by the other network", "by their own"),
        *("feature distance", "passes of an image", "its CPU milliseconds"),
    )
    rows = []
    for arm in result["arms"]:
        if not arm["seeds"]:
            rows.append([arm["pair"], arm["arm"], "not run", *["—"] * 4])
            continue
        shares = (
            spread(arm[figure], arm[f"{figure}_sd"], arm["seeds"])
            for figure in ("judge_accuracy", "own_accuracy")
        )
        price = f"{arm['passes']:,.0f}", f"{1000 * arm['seconds_per_image']:,.0f}"
        rows.append([arm["pair"], arm["arm"], *shares, f"{arm['feature_distance']:.0f}", *price])
    told = (
        "Share of the images that are called by their intended classes, in %, by the network that "
        "had no part in them and by the one that was inverted; distance from that one's BatchNorm "
        f"statistics. One batch of {result['setting']['count']} images a seed; passes forward and "
        "backward apart; seconds of one thread, beside other work."
    )
    return f"{told}\n\n{table(heads, rows)}" + _iteration_cost(result["cost"])


def _iteration_cost(cost: Sequence[Mapping[str, Any]]) -> str:
    """Return what an iteration costs, in multiples of an answer in float32; nothing if unknown."""
    if not cost:
        return ""
    told = (
        "What a batch of 128 costs, in multiples of the network's answer to it in float32, each "
        "the least of several in one process:"
    )
    kinds = [key for key in cost[0] if isinstance(cost[0][key], float)]
    rows = [[kind, *(f"{row[kind]:.2f}" for row in cost)] for kind in kinds]
    return f"\n\n{told}\n\n" + table(("", *(row["network"] for row in cost)), rows)


def _augmentation(result: Result) -> str:
    rates = result["images_per_second"]
    rows = [[name, f"{rate['median']:,}"] for name, rate in rates.items()]
    made = table(("setting, 32 x 32 in batches of 256, one thread", "images a second"), rows)
    composed = result["composing"]["ratio"]
    lines = [f"* Speed of composing operations, against one pass each: {composed} times."]
    if "kornia" in result:
        kornia = result["kornia"]
        lines.append(f"* Speed against kornia {kornia['version']}: {kornia['ratio']} times.")
    return f"{made}\n\n" + "\n".join(lines)


def _shaders(result: Result) -> str:
    parts = []
    coverage = result.get("coverage")
    if isinstance(coverage, Mapping):
        rows = [
            [
                name,
                f"{row['relative_entropy']:.3f} {PLUS_MINUS} {row['spread']:.3f}",
                percent(row["smallest_class_share"]),
            ]
            for name, row in coverage["sources"].items()
        ]
        told = (
            f"What a CIFAR-10 ResNet-20 calls {coverage['images']:,} raw images of each source, "
            f"{coverage['seeds']} seeds; 1 is an even share of every class."
        )
        made = table(("source", "entropy of its classes", "smallest class"), rows)
        parts.append(f"{told}\n\n{made}")
    agreement = result.get("agreement")
    if isinstance(agreement, Mapping):
        within, mean = (
            agreement[key] for key in ("worst_pixels_within_tolerance", "worst_mean_difference")
        )
        parts.append(
            f"OpenGL ({agreement['renderer']}) against torch, the worst of all families: "
            f"{100 * within:.2f} % of the pixels within 2/255; the largest mean difference of an "
            f"image is {255 * mean:.2f}/255."
        )
    speed = result.get("speed")
    if isinstance(speed, Mapping):
        rows = [
            [str(size), *(f"{rate:,}" for rate in row["images_per_second"].values())]
            for size, row in speed["sizes"].items()
        ]
        names = next(iter(speed["sizes"].values()))["images_per_second"]
        heads = ("images a second at size", *names)
        parts.append(table(heads, rows))
    return "\n\n".join(parts)


def _loop(result: Result) -> str:
    rows = [
        [
            row["pair"],
            row["precision"],
            f"{row['ratio']:.2f}",
            f"{row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f}",
        ]
        for row in result["rows"]
    ]
    told = "Images a second of `distill` over those of a hand-written loop with the same networks."
    return f"{told}\n\n{table(('networks', 'precision', 'ratio', 'range'), rows)}"


def _resume(result: Result) -> str:
    return (
        f"{result['of']} runs of {result['steps']} steps were killed {result['kills']} times at "
        f"random instants ({result['while_training']} of them between the first step and the "
        f"last) and gone on with; {result['same_students']} of {result['of']} students "
        "are the same, byte for byte, as without a kill."
    )


def _pool_cost(result: Result) -> str:
    pool = result["pool"]
    return (
        f"Drawing {pool['draws']:,} images, asking the teacher about them and keeping "
        f"{pool['images']:,}: {result['fill_seconds']:.0f} seconds of one thread. A step of "
        f"{result['batch_size']} images: {1000 * result['step_seconds']:.0f} milliseconds. Share "
        f"of the pool in {result['steps']:,} steps: {percent(result['share'])}."
    )


def _score(result: Result) -> str:
    """How well each ranker orders the transfer sets of each task; what a prediction is worth."""
    heads = (
        *("task", "ranked by", "all sets", "without trivial sets"),
        *("none of the teacher's own images", "of these, the first in rank reaches"),
    )
    rows = [
        [
            *(task, _RANKERS.get(name, name)),
            *(ranked(parts[part][name]) for part in ("all", "without_trivial", "foreign")),
            _first(parts["foreign"][name]),
        ]
        for task, parts in result["ranked"].items()
        for name in parts["all"]
        if name != "bn_distance"  # which `score` is
    ]
    told = (
        "Rank correlation of what a transfer set is ranked by, before training, with the accuracy "
        "of students taught by it; in brackets the interval of 95 % over resampled sets. "
        f"{_tasks(result)} Nothing was fitted on the task itself: what is fitted, is fitted on the "
        "other tasks."
    )
    missed = "; ".join(
        f"{task}: nine in ten within {found['score']['error_of_nine_in_ten']:.2f}, and "
        f"{found['a constant']['error_of_nine_in_ten']:.2f} for a constant"
        for task, found in result["predicted"].items()
    )
    last = (
        "An accuracy predicted by the same figure, as a share of what the teacher's own images "
        f"give, from the other tasks, is off by ({missed}). More than "
        f"{result['calibration']['widest']:g} is too much to be of use, so `score` predicts none."
    )
    return f"{told}\n\n{table(heads, rows)}\n\n{last}"


_RANKERS = {"score": "**`score`: bn_distance**"}


def _tasks(result: Result) -> str:
    return "".join(
        f"{name}: {task['sets']} sets, scored on {task['scored_images']:,} images each, "
        f"{task['classes']} classes, a {task['student']} after {task['steps']} steps. "
        for name, task in result["tasks"].items()
    ).strip()


def _first(found: Result) -> str:
    if found["first_reaches"] is None:
        return "-"
    return f"{percent(found['first_reaches'])} of {percent(found['best_reaches'])}"


def _scored(result: Result) -> str:
    rows = [
        [
            row["name"].replace("|", "\\|"),
            str(row["verdict"]),
            f"{row['fed']['bn_distance']:.2f}",
            f"{row['fed']['pair_coverage']:.2f}",
            f"{row['fed']['class_entropy']:.2f}",
            percent(statistics.mean(row["accuracy"])),
        ]
        for row in sorted(result["rows"], key=lambda row: -statistics.mean(row["accuracy"]))
    ]
    figures = ("BatchNorm distance", "pairs", "class entropy")
    heads = ("transfer set \\| what is around it", "verdict", *figures, "accuracy")
    told = (
        f"{len(rows)} transfer sets, scored as fed on {result['scored_images']:,} images, then "
        f"taught to a {result['student']} for "
        f"{result['steps']} steps; the teacher is right on {percent(result['teacher_accuracy'])}."
    )
    return f"{told}\n\n{table(heads, rows)}"


def _answer_ring(result: Result) -> str:
    rows = [
        [
            row["objective"],
            f"{row['time_ratio']:.2f} ({row['time_low']:.2f} to {row['time_high']:.2f})",
            str(row["batches"]),
            f"{row['mebibytes']:.0f}",
            f"{row['checkpoint_mebibytes']:.0f}",
            f"{row['gradient_error']:.0e}" if row["gradient_error"] else "none",
        ]
        for row in result["rows"]
    ]
    heads = (
        *("what is matched", "a step's time, over that without", "batches held", "MiB held"),
        *("of which in a checkpoint", "error of the gradient by rounding"),
    )
    setting = result["setting"]
    told = (
        f"Pair {setting['pair']}, batch size {setting['batch_size']}; the teacher answers one "
        f"batch in {setting['reuse']}. The processor's time beside other work, median and range of "
        "turns. The error is the largest of eight batches, relative to the gradient's length."
    )
    return f"{told}\n\n{table(heads, rows)}"


TABLES: Mapping[str, Callable[[Result], str]] = {
    "evaluate_cifar10": _evaluated,
    "int8": _int8,
    "segmentation": _segmentation,
    "inversion_cifar10": _inversion,
    "short_inversion": _short_inversion,
    "augmentation": _augmentation,
    "shaders": _shaders,
    "loop": _loop,
    "answer_ring": _answer_ring,
    "resume": _resume,
    "pool_cost": _pool_cost,
    "score": _score,
    "score_digits": _scored,
    "score_cifar10": _scored,
    "score_castings": _scored,
}
