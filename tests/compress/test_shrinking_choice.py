import pytest

from doublure.compress.shrinking_choice import Row, front, recommend
from doublure.compress.shrinking_plan import parse_target


def row(name: str, size: int, quality: float, *, ms: float = 1.0, measured: bool = True) -> Row:
    return Row(
        candidate=name,
        form="onnx",
        path=f"{name}.onnx",
        bytes=size,
        parameters=1,
        macs=1,
        agreement={"shaders": quality, "noise": quality - 0.2},
        accuracy=quality if measured else None,
        correct=round(100 * quality) if measured else None,
        count=100 if measured else None,
        latency_ms=ms,
    )


TEACHER = row("teacher", 1000, 0.9, ms=4.0)
ROWS = [row("a", 600, 0.88), row("b", 300, 0.7), row("c", 280, 0.8, ms=3.0), row("d", 100, 0.5)]


def test_the_best_that_meets_the_target_is_recommended():
    chosen = recommend(ROWS, parse_target("0.3"), TEACHER)
    assert (chosen.candidate, chosen.path, chosen.meets) == ("c", "c.onnx", True)
    assert chosen.reason == (
        "c, float32: 0.28 of the teacher's bytes, the highest accuracy of the 3 files of at most "
        "0.3 of the teacher's bytes: accuracy 80.0 % on 100 labelled images."
    )


def test_of_equals_the_smaller_is_recommended():
    rows = [row("large", 250, 0.8), row("small", 200, 0.8)]
    assert recommend(rows, parse_target("0.3"), TEACHER).candidate == "small"


def test_if_none_meets_the_target_the_nearest_is_named_as_such():
    chosen = recommend(ROWS, parse_target("50B"), TEACHER)
    assert (chosen.candidate, chosen.meets) == ("d", False)
    assert chosen.reason.startswith("No file meets the target of 50B. d, float32 is nearest")


def test_a_latency_counts_where_it_was_asked_for():
    chosen = recommend(ROWS, parse_target("2ms"), TEACHER)
    assert chosen.candidate == "a"
    assert "1 ms per image" in chosen.reason


def test_without_labels_mean_agreement_decides_and_is_told_by_set():
    rows = [row("a", 200, 0.7, measured=False), row("b", 250, 0.6, measured=False)]
    chosen = recommend(rows, parse_target("0.3"), row("teacher", 1000, 1.0, measured=False))
    assert chosen.candidate == "a"
    assert "70.0 % on shaders, 50.0 % on noise" in chosen.reason


def test_the_front_has_nothing_that_is_larger_and_no_better():
    assert [item.candidate for item in front(ROWS, parse_target("0.3"), TEACHER)] == [
        *("d", "c", "a"),
    ]


def test_of_nothing_nothing_is_recommended():
    with pytest.raises(ValueError, match="nothing to recommend"):
        recommend([], parse_target("0.3"), TEACHER)
