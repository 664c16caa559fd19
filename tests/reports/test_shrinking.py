from dataclasses import replace

import pytest

from doublure.compress.shrinking_choice import Recommendation, Row
from doublure.compress.shrinking_plan import LeftOut, parse_target
from doublure.data.own_files import RunFolderError
from doublure.reports.shrinking import (
    Placed,
    ShrinkSummary,
    files_table,
    front_chart,
    is_shrink,
    render,
    write_shrinking_report,
)


def row(name: str, size: int, accuracy: float | None, form: str = "int8-onnx") -> Row:
    correct = None if accuracy is None else round(1000 * accuracy)
    return Row(
        candidate=name,
        form=form,
        path=f"candidates/{name}/{form}",
        bytes=size,
        parameters=270_000,
        macs=40_000_000,
        agreement={"shaders": 0.9, "noise": 0.75, "leaves": 0.8},
        accuracy=accuracy,
        correct=correct,
        count=None if accuracy is None else 1000,
        latency_ms=size / 1e6,
    )


def placed(row: Row, **fields: bool) -> Placed:
    return Placed(**vars(row), takes=row.bytes / 3e5, **({"front": True} | fields))


def summary(*, labelled: bool = True, meets: bool = True) -> ShrinkSummary:
    accuracy = 0.8 if labelled else None
    rows = (placed(row("int8", 260_000, accuracy)), placed(row("a<b", 90_000, accuracy)))
    chosen = Recommendation(
        candidate="int8",
        form="int8-onnx",
        path=rows[0].path,
        meets=meets,
        reason="teacher, int8: 0.26 of the teacher's bytes.",
    )
    return ShrinkSummary(
        verb="shrink",
        teacher_reference="builtin/resnet20",
        target=parse_target("0.3"),
        teacher=row("teacher", 1_000_000, 0.82 if labelled else None, "onnx"),
        rows=rows,
        recommendation=chosen,
        left_out=(LeftOut(name="pruned-70", why="the budget has no 99s for it"),),
        failed=(LeftOut(name="resnet8", why="its loss became non-finite"),),
        agreement_images=512,
        budget=1200.0,
        seconds=1100.0,
        seed=0,
    )


def test_the_page_tells_the_choice_the_files_and_what_was_left_out():
    page = render(summary())
    for text in (
        "Meets the target",
        "0.26 of the teacher&#39;s bytes",
        "pruned-70: the budget has no 99",
        "resnet8: its loss became non-finite",
        "a&lt;b, int8",
    ):
        assert text in page, text
    assert "a<b" not in page
    assert "<script" not in page
    assert page.count("<svg") == 2
    assert page == render(summary())


def test_without_labels_agreement_is_called_what_it_is():
    page = render(summary(labelled=False))
    assert "flatters every student" in page
    assert 'class="warn"' in page
    assert "Mean agreement by bytes" in page
    assert "Accuracy by bytes" not in page


def test_that_nothing_meets_the_target_is_the_first_thing_said():
    page = render(summary(meets=False))
    assert page.index("Nothing meets the target") < page.index("Every file")


def test_the_table_begins_with_the_teacher_and_goes_by_size():
    table = files_table(summary())
    names = [cells[0].text for cells in table.rows]
    assert names == ["teacher, float32", "a<b, int8", "teacher, int8"]
    assert table.rows[2][0].detail == "recommended, meets the target"
    assert table.columns[-1] == ("Accuracy", "measured")
    assert len(files_table(summary(labelled=False)).columns) == len(table.columns) - 1


@pytest.mark.parametrize("by", ["bytes", "latency_ms"])
def test_the_chart_says_in_words_what_is_on_the_front(by):
    better = placed(row("int8", 260_000, 0.81))
    chart = front_chart(replace(summary(), rows=(better, summary().rows[1])), by)
    assert "on the front: a&lt;b, int8 80.0 %, teacher, int8 81.0 %" in chart


def test_a_folder_of_something_else_is_told_apart(tmp_path):
    assert not is_shrink(tmp_path)
    (tmp_path / "summary.json").write_text('{"verb": "prune"}')
    assert not is_shrink(tmp_path)
    (tmp_path / "summary.json").write_text('{"verb": "shrink"}')
    assert is_shrink(tmp_path)
    with pytest.raises(RunFolderError, match=r"cannot read .*summary\.json"):
        write_shrinking_report(tmp_path)
