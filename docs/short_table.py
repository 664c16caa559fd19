"""The short table of the README: what a few results files say, each held against its rivals.

One function for each file lists what it says, as (what, figure, held against); none says nothing.
Rows are those of one kind of host, means of two seeds or more. Beside every figure stand its
controls, and the best arm of the same table where that is better.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cells import (
    RESULTS,
    Result,
    accuracy,
    by_host,
    interval,
    length,
    percent,
    points,
    ranked,
    spread,
    taken,
)

Row = tuple[str, str, str]


def summary() -> str:
    """Return the short table of the README."""
    lines = ["| what | figure | held against |", "| --- | --- | --- |"]
    for name, rows in _SUMMARIES.items():
        path = RESULTS / f"{name}.json"
        if path.exists():
            hosts = by_host(json.loads(path.read_text(encoding="utf-8")))
            lines += [f"| {' | '.join(row)} |" for row in rows(next(iter(hosts.values())))]
    return "\n".join(lines)


def _told_cifar10(result: Result) -> list[Row]:
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in result["summary"]:
        groups.setdefault(row["at"], {})[row["arm"]] = row
    told = []
    for at, arms in groups.items():
        if not _measured(arms, "full"):
            continue
        rivals = ("bare shaders", "real", "noise + attack", "noise", "leaves")
        pair = result["setting"]["pair"]
        known = [*_teacher(pair.split(" ")[0]), *_held_against(arms, "full", rivals)]
        took = taken(result, at, ("full", *rivals))
        what = (
            f"CIFAR-10, {pair}, {at}{took}: accuracy of a student taught by shader images, with "
            "every part of the recipe, %"
        )
        told.append((what, accuracy(arms["full"]), "; ".join(known)))
    return told


def _measured(arms: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    """Return whether there is an arm, of two seeds or more."""
    return name in arms and arms[name]["seeds"] > 1


def _teacher(network: str) -> list[str]:
    """Return what a teacher of the CIFAR-10 arms is right on, where that was measured."""
    path = RESULTS / "evaluate_cifar10.json"
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [f"teacher {100 * row['accuracy']:.1f}" for row in rows if row["network"] == network]


def _held_against(
    arms: Mapping[str, Mapping[str, Any]], ours: str, rivals: Sequence[str]
) -> list[str]:
    """Return the rivals, and before them the best of all arms where that is better than ours."""
    best = max((name for name in arms if _measured(arms, name)), key=lambda n: arms[n]["mean"])
    wins = [best] if best not in rivals and arms[best]["mean"] > arms[ours]["mean"] else []
    shown = [name for name in (*wins, *rivals) if _measured(arms, name)]
    return [f"{name} {accuracy(arms[name])}" for name in shown]


def _told_inversion(result: Result) -> list[Row]:
    arms = {arm["arm"]: arm for arm in result["arms"]}
    known = {
        name: spread(
            arms[name]["judge_accuracy"], arms[name]["judge_accuracy_sd"], arms[name]["seeds"]
        )
        for name in ("DeepInversion", "inceptionism", "image prior alone", "real")
        if _measured(arms, name)
    }
    if "DeepInversion" not in known:
        return []
    ours = known.pop("DeepInversion")
    what = "CIFAR-10: images inverted from resnet56 that resnet20 calls by their classes, %"
    return [(what, ours, "; ".join(f"{name} {figure}" for name, figure in known.items()))]


def _told_digits(result: Result) -> list[Row]:
    kept = dict(result["kept"])
    shaders = kept.pop("shader images", None)
    if shaders is None:
        return []
    return [
        (
            "digits, 8 x 8: share of its teacher's accuracy that a student taught by shader "
            "images keeps",
            f"{percent(shaders[0])} ({interval(shaders)})",
            "; ".join(f"{name} {percent(rival[0])}" for name, rival in kept.items()),
        )
    ]


def _arm(
    what: str, ours: str, rivals: Sequence[str], at: str | None = None
) -> Callable[[Result], list[Row]]:
    """Return what tells of one arm and its rivals, of the rows at a length where there are more."""

    def told(result: Result) -> list[Row]:
        arms = {row["arm"]: row for row in result["summary"] if at in (None, row.get("at"))}
        if not _measured(arms, ours):
            return []
        took = "" if at is None else taken(result, at, (ours, *rivals))
        known = _held_against(arms, ours, rivals)
        return [(what.replace(f"{at}:", f"{at}{took}:"), accuracy(arms[ours]), "; ".join(known))]

    return told


def _told_sources(result: Result) -> list[Row]:
    told = []
    for at in dict.fromkeys(row["at"] for row in result["rows"]):
        rows = _arm(
            f"digits, 8 x 8, {length(at)}: accuracy of a student taught by images inverted from "
            "its teacher, %",
            "DeepInversion",
            ("shaders", "DeepInversion without features", "BN statistics", "fast-5", "noise"),
            at,
        )
        told += rows(result)
    return told


def _told_quantization(result: Result) -> list[Row]:
    told = []
    for network in ("resnet20", "resnet56"):
        rows = _arm(
            f"{network}, CIFAR-10, weights and activations of 4 bits, calibrated on images "
            "inverted from its BatchNorm statistics: accuracy, %",
            "batch-norm-statistics",
            ("real", "shaders", "noise", "weights only"),
            f"{network} W4A4 mse",
        )
        told += rows(result)
    return told


def _told_translation(result: Result) -> list[Row]:
    bleu: dict[str, list[float]] = {}
    for row in result["rows"]:
        bleu.setdefault(row["arm"], []).append(row["bleu"])
    if not {"sequence-level", "forward", "alone"} <= set(bleu):
        return []
    told = {
        arm: f"{statistics.mean(found):.1f} ({len(found)} seeds)" for arm, found in bleu.items()
    }
    what = "German to English captions: BLEU of a small student taught its teacher's sentences"
    against = f"forward divergence {told['forward']}; the corpus alone {told['alone']}"
    return [(what, told["sequence-level"], against)]


def _told_int8(result: Result) -> list[Row]:
    told = []
    for row in result["rows"]:
        shaders = [item for item in row.get("calibrated", ()) if item["images"] == "shaders"]
        if row["network"] not in ("resnet20", "resnet56") or not shaders:
            continue
        told.append(
            (
                f"{row['network']}, CIFAR-10, as int8 ONNX calibrated on shader images",
                f"{points(shaders[0]['mean_points'])} points, {row['bytes_ratio']:.2f} of the "
                f"bytes, {row['speed']['int8_one_image']:.1f} times the speed",
                "float32 ONNX, one thread, one image",
            )
        )
    return told


def _told_score(result: Result) -> list[Row]:
    rivals = ("pair_coverage", "class_entropy", "three fitted", "a constant")
    names = {"three fitted": "three figures, fitted on the other tasks"}
    return [
        (
            f"`score` before training against accuracy after it: rank correlation, {task}, "
            f"{parts['without_trivial']['score']['sets']} transfer sets",
            ranked(parts["without_trivial"]["score"]),
            "; ".join(
                f"{names.get(rival, rival).replace('_', ' ')} "
                f"{ranked(parts['without_trivial'][rival])}"
                for rival in rivals
            ),
        )
        for task, parts in result["ranked"].items()
    ]


def _told_evaluation(result: Result) -> list[Row]:
    return [
        (
            f"public {row['network']}, CIFAR-10 as JPEG, loaded and scored",
            f"{100 * row['accuracy']:.2f} % of {row['count']:,}",
            f"{percent(row['expected'])} known of it",
        )
        for row in result["rows"]
    ]


def _told_loop(result: Result) -> list[Row]:
    return [
        (
            f"images a second of `distill`, {row['pair']}, {row['precision']}",
            f"{row['ratio']:.2f} times",
            "a hand-written loop",
        )
        for row in result["rows"]
        if row["precision"] == "float32" and row["pair"].startswith("resnet")
    ]


def _told_resume(result: Result) -> list[Row]:
    return [
        (
            f"runs killed at random instants, {result['kills']} times in all, and resumed",
            f"{result['same_students']} of {result['of']} students the same, byte for byte",
            "the same runs without a kill",
        )
    ]


def _told_shaders(result: Result) -> list[Row]:
    coverage = result.get("coverage")
    if not isinstance(coverage, Mapping):
        return []
    sources = coverage["sources"]
    rivals = [
        f"{name} {row['relative_entropy']:.2f}"
        for name, row in sources.items()
        if name != "shaders"
    ]
    return [
        (
            "how evenly a CIFAR-10 ResNet-20 sees its classes in raw shader images (1: evenly)",
            f"{sources['shaders']['relative_entropy']:.2f}",
            "; ".join(rivals),
        )
    ]


def _told_main_job(result: Result) -> list[Row]:
    rows = []
    for at in dict.fromkeys(row["at"] for row in result["rows"]):
        what = (
            f"CIFAR-10, {result['setting']['pair']}, {at}: accuracy of a student made without data "
            "by the default recipe, %"
        )
        rivals = ("bound: real images", "shader-kd", "bare shaders")
        rows += _arm(what, "auto", rivals, at)(result)
    return rows


_SUMMARIES: Mapping[str, Callable[[Result], list[Row]]] = {
    "main_job": _told_main_job,
    "cifar10": _told_cifar10,
    "cifar10_resnet56": _told_cifar10,
    "digits": _told_digits,
    "sources_digits": _told_sources,
    "sources_cifar10": _arm(
        "CIFAR-10, resnet20 -> resnet8, 600 seconds: accuracy of a student taught by fast-meta's "
        "images, %",
        "fast-5",
        (
            *("real", "fast-5 with fresh generator", "shaders", "Adaptive DeepInversion"),
            *("DeepInversion", "noise"),
        ),
        "600 seconds",
    ),
    "pruning": _arm(
        "digits, 50% of the filters gone, recovered on images inverted from the network, %",
        "deep-inversion",
        ("real", "shaders", "noise", "not recovered"),
        "digits, 50% of the filters gone",
    ),
    "continual": _arm(
        "digits 0 to 4, then 5 to 9 beside images inverted from the network: all ten, %",
        "deep-inversion",
        ("joint", "batch-norm-statistics", "old images without labels", "shaders", "lwf", "plain"),
    ),
    "lcw": _arm(
        "digits, 8 x 8: accuracy of a student taught by images of an LCW generator, %",
        "digits: plain auto-encoder, generated",
        ("digits", "digits: normal", "digits: plain auto-encoder, interpolated"),
    ),
    "shaders": _told_shaders,
    "score": _told_score,
    "inversion_cifar10": _told_inversion,
    "quantization": _told_quantization,
    "int8": _told_int8,
    "resume": _told_resume,
    "translation": _told_translation,
    "loop": _told_loop,
    "evaluate_cifar10": _told_evaluation,
}
