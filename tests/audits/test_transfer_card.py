import dataclasses
import json

import pytest

from doublure.audits.calibration import NotCalibrated, Prediction
from doublure.audits.transfer_card import TransferSetCard, VerdictLimits, judge, ranked_text
from doublure.audits.transfer_tally import Estimate, StreamDiagnostics
from doublure.core.findings import Finding
from tests.tiny import CONTRACT

GOOD = {
    "class_entropy": 0.97,
    "min_class_share": 0.6,
    "uncovered": 0.0,
    "pair_coverage": 0.8,
    "mutual_information": 0.7,
    "bn_distance": 0.2,
}
ORDER = ("ok", "warn", "fail")


def stream(histogram=(40, 30, 30), count=100, **changes):
    measurements = {
        name: Estimate(value=value, low=0.9 * value, high=1.1 * value)
        for name, value in (GOOD | changes).items()
    }
    return StreamDiagnostics(
        count=count,
        measurements=measurements,
        missing={},
        histogram=histogram,
        deciles=tuple(i / 10 for i in range(11)),
        entropy_bias=0.0,
        mean=(0.5,),
        std=(0.25,),
    )


def card(**changes):
    raw = stream()
    fields = {
        "name": "shaders",
        "teacher": "builtin/resnet20",
        "contract": CONTRACT,
        "count": 100,
        "seed": 3,
        "temperature": 4.0,
        "wrappers": ("balanced", "augmented"),
        "raw": raw,
        "fed": stream(class_entropy=0.91),
        "verdict": "ok",
        "reasons": (),
        "notes": (),
        "prediction": Prediction(ratio=0.83, low=0.7, high=0.95),
        "limits": VerdictLimits(),
    }
    return TransferSetCard(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "verdict", "named"),
    [
        ({}, "ok", ""),
        ({"uncovered": 1.0}, "fail", "1 of 3 classes"),
        ({"min_class_share": 0.04}, "fail", "min_class_share 0.040"),
        ({"class_entropy": 0.4}, "fail", "class_entropy 0.40"),
        ({"pair_coverage": 0.49}, "warn", "pair_coverage 0.49"),
        ({"bn_distance": 1.4}, "warn", "bn_distance 1.40"),
    ],
)
def test_the_verdict_follows_the_rule_and_names_the_figure(changes, verdict, named):
    found, reasons = judge(stream(**changes), VerdictLimits())
    assert found == verdict
    assert len(reasons) == (verdict != "ok")
    assert named in " ".join(reasons)


def test_few_images_for_many_classes_are_a_warning():
    verdict, reasons = judge(stream(count=50), VerdictLimits())
    assert verdict == "warn"
    assert "150 would do" in reasons[0]


@pytest.mark.parametrize("count", [30, 59, 60, 1000])
@pytest.mark.parametrize("worse", [{}, {"pair_coverage": 0.1}, {"class_entropy": 0.1}])
def test_one_more_starved_class_never_improves_the_verdict(count, worse):
    before, _ = judge(stream(count=count, **worse), VerdictLimits())
    starved = {"uncovered": 1.0, "min_class_share": 0.0} | worse
    after, _ = judge(stream((40, 30, 30, 0), count, **starved), VerdictLimits())
    assert ORDER.index(after) >= ORDER.index(before)


def test_a_teacher_without_batchnorm_is_not_warned_about():
    found = stream()
    measurements = {
        name: figure for name, figure in found.measurements.items() if name != "bn_distance"
    }
    assert judge(dataclasses.replace(found, measurements=measurements), VerdictLimits()) == (
        "ok",
        (),
    )


def test_json_holds_both_streams_and_plain_values_only():
    table = json.loads(json.dumps(card().to_json(), allow_nan=False))
    assert table["raw"]["measurements"]["class_entropy"]["value"] == 0.97
    assert table["fed"]["measurements"]["class_entropy"]["value"] == 0.91
    assert table["predicted"] == {"ratio": 0.83, "low": 0.7, "high": 0.95}
    assert table["not_calibrated"] is None
    assert table["ranked_by"]["figure"] == "bn_distance"
    assert table["ranked_by"]["better"] == "lower"
    assert table["ranked_by"]["value"] == table["fed"]["measurements"]["bn_distance"]["value"]


def test_a_figure_out_of_its_range_is_marked_with_its_side():
    found = card(fed=stream(class_entropy=0.6, near_boundary=0.7, min_class_share=0.3))
    assert found.to_json()["out_of_range"] == {"class_entropy": "low", "near_boundary": "high"}
    lines = {line.split()[0]: line for line in found.text().splitlines() if line}
    assert lines["class_entropy"].endswith("> 0.9  too low")
    assert lines["near_boundary"].endswith("0.1 to 0.4  too high")
    assert lines["min_class_share"].endswith("> 0.3")
    assert found.to_finding().meanings["class_entropy"][2] == "> 0.9  too low"


def test_cards_are_ranked_and_say_by_what():
    far, near = (
        card(name=name, fed=stream(bn_distance=distance), verdict=verdict)
        for name, distance, verdict in (("far", 0.9, "ok"), ("near", 0.1, "fail"))
    )
    head, *lines = ranked_text([far, near, dataclasses.replace(near, name="same")]).splitlines()
    assert head.startswith("ranked by bn_distance as fed, lower is better")
    assert [line.split()[:2] for line in lines[-3:]] == [
        ["1.", "near"],
        ["1.", "same"],
        ["3.", "far"],
    ]
    assert lines[-1].endswith("ok")
    assert max(map(len, [head, *lines])) <= 80


def test_a_finding_says_that_it_predicts_or_that_it_cannot():
    found = card(verdict="warn", reasons=("pairs are missing",)).to_finding()
    assert isinstance(found, Finding)
    assert (found.verdict, found.tag) == ("warn", "predicted")
    assert found.summary.startswith("pairs are missing; ranks by bn_distance 0.2, lower is better")
    assert "predicted 0.83 of the accuracy that the teacher's own images give" in found.summary
    assert found.meanings["class_entropy"] == (
        "Class balance",
        "how evenly the teacher names its classes; 1 is evenly",
        "> 0.9",
    )
    assert set(found.meanings) <= set(found.measurements["as fed"])
    silent = card(prediction=NotCalibrated(reason="100 classes")).to_finding()
    assert silent.tag == "proxy"
    assert "no accuracy is predicted: not calibrated here (100 classes)" in silent.summary
    assert "predicted" not in silent.measurements


def test_text_fits_eighty_columns_and_shows_every_part():
    long = "something that has to be said at some length " * 4
    text = card(verdict="warn", reasons=(long,), notes=(long,)).text()
    assert max(map(len, text.splitlines())) <= 80
    for part in (*GOOD, "raw", "as fed", "WARN", "0.83", "balanced, then augmented"):
        assert part in text
    # Square brackets would be taken for markup.
    assert "[" not in text


def test_a_source_without_wrappers_has_one_column():
    text = card(fed=None, wrappers=()).text()
    assert "as fed" not in text
    assert card(fed=None).shown.value("class_entropy") == 0.97


def test_what_is_left_out_is_told():
    bare = dataclasses.replace(stream(), missing={"bn_distance": "the teacher has no BatchNorm"})
    assert "left out: bn_distance: the teacher has no BatchNorm" in card(fed=bare).text()
