import numpy as np

from doublure.reports.facts import (
    agreement_facts,
    class_facts,
    finding_rows,
    headline_facts,
    run_facts,
)
from doublure.reports.record import ExportedForm, RunRecord, Summary
from doublure.reports.shown_images import Samples
from doublure.tasks.classification.task import ClassificationTask

WORDS = ClassificationTask.words


def test_four_figures_at_most_stand_under_the_verdict():
    summary = Summary(
        student_accuracy=0.9, teacher_accuracy=0.95, agreement=0.8, student_parameters=10
    )
    forms = (ExportedForm(form="a", bytes=9, latency_ms=2.0), ExportedForm(form="b", bytes=5))
    facts = headline_facts(RunRecord(name="run", summary=summary, exports=forms))
    assert [fact.name for fact in facts] == ["Accuracy", "Agreement", "Parameters", "Smallest file"]
    assert (facts[3].value, facts[3].detail) == ("5 B", "b")
    assert all(fact.tag is not None for fact in facts)


def test_the_time_of_a_smaller_network_stands_beside_what_it_was():
    summary = Summary(student_accuracy=0.9, teacher_latency_ms=2.0, student_latency_ms=0.5)
    facts = headline_facts(RunRecord(name="run", summary=summary))
    assert [fact.name for fact in facts] == ["Accuracy", "Latency"]
    assert facts[1].detail == "1/4 of the teacher's 2.00 ms, on the CPU"


def test_a_run_without_a_summary_has_no_headline_figures():
    assert headline_facts(RunRecord(name="run")) == []


def test_the_histogram_is_told_in_words():
    samples = Samples(histogram=np.array([3, 0, 1]))
    facts = class_facts(samples, ["ant", "bee", "cow"])
    assert [(fact.value, fact.detail) for fact in facts] == [
        ("4", ""),
        ("2 of 3", "never: bee"),
        ("75.0 %", "ant"),
        ("33.3 %", "the dashed line"),
    ]


def test_agreement_says_on_what_and_how_surely():
    summary = Summary(
        words=ClassificationTask.words,
        agreement=0.5,
        agreement_count=100,
        agreement_on="kept-apart images",
    )
    (fact,) = agreement_facts(summary)
    assert fact.tag == "proxy"
    assert fact.detail == "95 % interval 40.4 to 59.6 %, on 100 images: kept-apart images"


def test_many_views_of_few_images_are_as_sure_as_those_few():
    views = Summary(
        words=ClassificationTask.words, agreement=0.5, agreement_count=2048, agreement_images=100
    )
    (fact,) = agreement_facts(views)
    assert fact.detail.startswith("95 % interval 40.4 to 59.6 %, on 2,048 images")
    assert views.compared_on == "views of 100 held-out transfer images"
    many = Summary(
        words=ClassificationTask.words, agreement=0.5, agreement_count=100, agreement_images=100
    )
    assert many.compared_on == "held-out transfer images"


def test_settings_carry_no_tag_and_timings_do():
    facts = run_facts(Summary(steps=2000, seed=0, seconds=75.0))
    assert [(fact.name, fact.value, fact.tag) for fact in facts] == [
        ("Steps", "2,000", None),
        ("Seed", "0", None),
        ("Time", "1 min 15 s", "measured"),
    ]


def test_figures_of_a_finding_are_flattened():
    found = {"a_b": 1.23456, "inner": {"x": True, "y": None}, "many": list(range(10)), "odd": [[1]]}
    assert finding_rows(found) == [
        ("a b", "1.235"),
        ("inner, x", "yes"),
        ("inner, y", "–"),
        ("many", "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"),
        ("odd", "[[1]]"),
    ]
