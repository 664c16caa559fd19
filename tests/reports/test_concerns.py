import numpy as np
import pytest

from doublure.reports.concerns import (
    ConcernLimits,
    bad_findings,
    lost_classes,
    unseen_classes,
    weak_forms,
)
from doublure.reports.record import ClassScore, ExportedForm, SavedFinding, Summary
from doublure.reports.shown_images import Samples

LIMITS = ConcernLimits()
FLOAT = ExportedForm(form="torch", bytes=1000, latency_ms=2.0, accuracy=0.9, agreement=1.0)


def test_a_class_that_the_student_no_longer_knows_is_named():
    scores = {
        "cat": ClassScore(count=50, teacher=0.9, student=0.2),
        "dog": ClassScore(count=50, teacher=0.9, student=0.8),
    }
    (reason,) = lost_classes(Summary(per_class=scores), LIMITS)
    assert reason.level == "warn"
    assert reason.text == (
        "On 1 class the student keeps less than 50.0 % of its teacher's accuracy: cat."
    )


@pytest.mark.parametrize(
    "score",
    [
        ClassScore(count=3, teacher=0.9, student=0.0),  # too few images to say
        ClassScore(count=50, teacher=0.2, student=0.0),  # the teacher never knew it
        ClassScore(count=50, teacher=None, student=0.0),
    ],
)
def test_a_class_nobody_can_blame_the_student_for_is_not_lost(score: ClassScore):
    assert lost_classes(Summary(per_class={"cat": score}), LIMITS) == []


def test_classes_that_never_came_up_are_counted():
    samples = Samples(histogram=np.array([500, 0, 0, 500]))
    (reason,) = unseen_classes(samples, labelled=False, limits=LIMITS)
    assert reason.level == "warn"
    assert reason.tag == "proxy"
    assert reason.text.startswith("The teacher named 2 of its 4 classes in none of 1,000 transfer")


def test_labels_outweigh_classes_that_never_came_up():
    samples = Samples(histogram=np.array([500, 0, 0, 500]))
    (reason,) = unseen_classes(samples, labelled=True, limits=LIMITS)
    assert reason.level == "ok"


def test_a_small_sample_says_nothing_about_classes():
    samples = Samples(histogram=np.array([5, 0, 0, 5]))
    assert unseen_classes(samples, labelled=False, limits=LIMITS) == []


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (ExportedForm(form="onnx", accuracy=0.85), "changes by −5.0 points"),
        (ExportedForm(form="onnx", agreement=0.9), "the same answer on only 90.0 %"),
        (ExportedForm(form="int8", quantize_nodes=0), "quantized in name only"),
        (ExportedForm(form="int8", quantize_nodes=9, bytes=1200), "no smaller than the float"),
    ],
)
def test_a_form_that_is_not_what_it_promises_is_a_warning(form: ExportedForm, message: str):
    (reason,) = weak_forms([FLOAT, form], LIMITS)
    assert message in reason.text
    assert reason.level == "warn"


def test_a_quantized_form_that_is_not_faster_is_told_without_blame():
    form = ExportedForm(form="int8", quantize_nodes=9, bytes=300, latency_ms=2.5)
    (reason,) = weak_forms([FLOAT, form], LIMITS)
    assert "no faster" in reason.text
    assert reason.level == "ok"


def test_a_good_form_is_no_concern():
    form = ExportedForm(
        form="int8", quantize_nodes=9, bytes=300, latency_ms=1.0, accuracy=0.89, agreement=0.95
    )
    assert weak_forms([FLOAT, form], LIMITS) == []


def test_a_failed_finding_warns_even_beside_labels():
    finding = SavedFinding(name="Audit", verdict="fail", summary="It broke.", tag="proxy")
    (reason,) = bad_findings([finding], labelled=True)
    assert reason.level == "warn"
    assert reason.text == "Audit: It broke."


def test_a_mere_warning_is_outweighed_by_labels():
    finding = SavedFinding(name="Audit", verdict="warn", summary="Careful.", tag="proxy")
    assert bad_findings([finding], labelled=True)[0].level == "ok"
    assert bad_findings([finding], labelled=False)[0].level == "warn"
