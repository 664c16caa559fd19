from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doublure.reports.concerns import ConcernLimits
from doublure.reports.record import ClassScore, ExportedForm, RunRecord, SavedFinding, Summary
from doublure.reports.shown_images import Samples
from doublure.reports.verdict import Verdict, chance, judge
from doublure.tasks.classification.task import ClassificationTask

LIMITS = ConcernLimits()
GOOD = Summary(
    words=ClassificationTask.words,
    teacher_accuracy=0.972,
    student_accuracy=0.936,
    accuracy_count=500,
    agreement=0.914,
    agreement_count=2000,
    teacher_parameters=272474,
    student_parameters=22706,
    class_names=tuple("0123456789"),
)
UNLABELLED = replace(GOOD, teacher_accuracy=None, student_accuracy=None, accuracy_count=None)


def verdict_on(summary: Summary | None, **parts: Any) -> Verdict:
    return judge(RunRecord(name="run", summary=summary, **parts), LIMITS)


def test_a_student_that_keeps_its_teachers_accuracy_is_good_to_use():
    verdict = verdict_on(GOOD)
    assert verdict.level == "ok"
    assert verdict.tag == "measured"
    assert verdict.headline == (
        "The student keeps 96.3 % of its teacher's accuracy on 500 labelled images, "
        "with 1/12 of the teacher's parameters."
    )
    assert verdict.reasons[0].text == (
        "Student 93.6 % (95 % interval 91.1 to 95.4 %), "
        "teacher 97.2 % (95 % interval 95.4 to 98.3 %), on 500 labelled images."
    )


@pytest.mark.parametrize(
    ("student", "level"), [(0.972 * 0.951, "ok"), (0.972 * 0.949, "warn"), (0.972 * 0.79, "fail")]
)
def test_the_level_follows_the_share_of_accuracy_kept(student: float, level: str):
    assert verdict_on(replace(GOOD, student_accuracy=student)).level == level


def test_where_nothing_was_held_out_the_headline_says_on_what_they_agree():
    on = "shader images of a fixed set; none of what was shown could be held out"
    headline = verdict_on(replace(UNLABELLED, agreement_on=on)).headline
    assert " of 2,000 shader images of a fixed set (a proxy: " in headline


def test_without_labels_agreement_is_called_a_proxy_and_never_ok():
    verdict = verdict_on(UNLABELLED)
    assert verdict.level == "unknown"
    assert verdict.tag == "proxy"
    assert verdict.headline == (
        "No labelled images were given: accuracy is unknown. The student agrees with its teacher "
        "on 91.4 % of 2,000 held-out transfer images (a proxy: this is not accuracy)."
    )


@given(st.floats(0, 1))
def test_no_agreement_however_high_earns_ok(agreement: float):
    assert verdict_on(replace(UNLABELLED, agreement=agreement)).level != "ok"


def test_without_labels_or_agreement_nothing_is_claimed():
    verdict = verdict_on(replace(UNLABELLED, agreement=None, agreement_count=None))
    assert verdict.level == "unknown"
    assert verdict.tag is None
    assert verdict.headline == "No labelled images were given: accuracy is unknown."


def test_low_agreement_is_a_warning_and_agreement_by_chance_a_failure():
    low = verdict_on(replace(UNLABELLED, agreement=0.6))
    assert (low.level, low.label) == ("warn", "Accuracy unknown: use with care")
    assert verdict_on(replace(UNLABELLED, agreement=0.1)).level == "fail"


def test_few_labelled_images_are_said_to_be_few():
    verdict = verdict_on(replace(GOOD, accuracy_count=40))
    assert verdict.level == "warn"
    assert any("40 labelled images leave" in reason.text for reason in verdict.reasons)


def test_a_count_that_nobody_wrote_down_is_missed():
    verdict = verdict_on(replace(GOOD, accuracy_count=None))
    assert verdict.level == "warn"
    assert "on labelled images" in verdict.headline


def test_a_student_that_guesses_fails_even_beside_a_poor_teacher():
    verdict = verdict_on(replace(GOOD, teacher_accuracy=0.13, student_accuracy=0.12))
    assert verdict.level == "fail"
    assert verdict.headline.startswith("The student cannot be told from guessing: 12.0 %")


def test_naming_the_commonest_class_is_not_skill():
    scores = {"healthy": ClassScore(count=900), "ill": ClassScore(count=100)}
    summary = replace(
        GOOD,
        teacher_accuracy=0.95,
        student_accuracy=0.9,
        accuracy_count=1000,
        per_class=scores,
        class_names=("healthy", "ill"),
    )
    assert chance(summary, 2) == pytest.approx(0.9)
    assert verdict_on(summary).level == "fail"


def test_a_teacher_that_guesses_is_found_out():
    verdict = verdict_on(replace(GOOD, teacher_accuracy=0.098, student_accuracy=0.2))
    assert verdict.level == "fail"
    assert "check its mean, std and class order" in verdict.headline


def test_a_student_may_be_better_than_its_teacher():
    verdict = verdict_on(replace(GOOD, student_accuracy=0.98))
    assert verdict.level == "ok"
    assert verdict.headline.startswith("The student is more accurate than its teacher on 500")


def test_a_student_of_its_teachers_size_is_said_to_be_so():
    verdict = verdict_on(replace(GOOD, student_parameters=GOOD.teacher_parameters))
    assert verdict.headline.endswith(", with as many parameters as its teacher.")


def test_a_network_without_a_teacher_is_measured_without_a_yardstick():
    verdict = verdict_on(replace(GOOD, verb="train", teacher_accuracy=None))
    assert verdict.level == "unknown"
    assert verdict.headline == "The network is right on 93.6 % of 500 labelled images."
    assert verdict.reasons[0].text.startswith("Network 93.6 % (95 % interval 91.1 to 95.4 %)")


def test_other_tasks_are_told_by_their_scores():
    verdict = verdict_on(Summary(teacher_scores={"mIoU": 0.7}, student_scores={"mIoU": 0.61}))
    assert verdict.reasons[0].text == "mIoU: 0.61, teacher 0.7."


def test_an_unfinished_run_is_not_judged():
    verdict = verdict_on(None)
    assert verdict.label == "Not finished"
    assert verdict.tag is None


def test_a_concern_pulls_the_verdict_down_and_says_why():
    forms = (
        ExportedForm(form="torch", accuracy=0.936),
        ExportedForm(form="int8-onnx", accuracy=0.5, quantize_nodes=4),
    )
    verdict = verdict_on(GOOD, exports=forms)
    assert (verdict.level, verdict.label) == ("warn", "Use with care")
    assert "int8-onnx" in verdict.reasons[-1].text


def test_a_concern_leaves_the_unknown_unknown():
    finding = SavedFinding(name="Score", verdict="warn", summary="Poor.", tag="predicted")
    samples = Samples(histogram=np.array([1000, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
    verdict = verdict_on(UNLABELLED, findings=(finding,), samples=samples)
    assert (verdict.level, verdict.label) == ("warn", "Accuracy unknown: use with care")
    assert {reason.tag for reason in verdict.reasons} == {"measured", "proxy", "predicted"}


def test_a_failure_stays_a_failure():
    finding = SavedFinding(name="Score", verdict="warn", summary="Poor.", tag="predicted")
    summary = replace(GOOD, student_accuracy=0.5)
    assert verdict_on(summary, findings=(finding,)).label == "Do not use"


WIDENED = Summary(
    teacher_accuracy=0.97,
    student_accuracy=0.82,
    accuracy_count=500,
    old_accuracy=0.8,
    old_correct=200,
    old_count=250,
    new_accuracy=0.84,
    new_correct=210,
    new_count=250,
    new_classes=5,
    forgetting=0.17,
)


def test_a_network_that_learned_classes_is_judged_by_what_it_kept_of_the_old_ones():
    verdict = verdict_on(WIDENED)
    assert verdict.level == "warn"
    assert verdict.headline == (
        "It is right on 80.0 % of its old classes, where it was on 97.0 %; of the new ones "
        "on 84.0 %."
    )
    assert verdict.reasons[0].text == (
        "Old classes 80.0 % (95 % interval 74.6 to 84.5 %) on 250 labelled images, of all it "
        "could have answered."
    )
    assert verdict_on(replace(WIDENED, old_accuracy=0.96)).level == "ok"
    assert verdict_on(replace(WIDENED, old_accuracy=0.3)).level == "fail"


def test_new_classes_that_were_not_learned_fail_however_well_the_old_ones_stand():
    verdict = verdict_on(replace(WIDENED, old_accuracy=0.96, new_accuracy=0.2))
    assert verdict.level == "fail"
    assert "Guessing among those 5 would do as well" in verdict.headline


def test_without_old_labels_nobody_knows_what_was_forgotten():
    verdict = verdict_on(replace(WIDENED, old_accuracy=None, old_count=None, teacher_accuracy=None))
    assert verdict.level == "unknown"
    assert "no labelled image tells what it forgot" in verdict.headline
