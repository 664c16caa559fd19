import json

import pytest
import torch

from tests.tiny import CONTRACT
from understudy.audits.calibration import (
    Calibration,
    NotCalibrated,
    Prediction,
    error_of,
    fit_calibration,
)
from understudy.protocols import InputContract
from understudy.seeding import from_seed

RANGE = {"classes": (3, 3), "side": (8, 32), "tasks": ("made up",)}


def sets(count=60):
    drawn = torch.rand(count, 2, generator=from_seed(0)).tolist()
    return [{"coverage": a, "distance": 0.1 + b} for a, b in drawn]


def fitted(ratio=lambda row: 0.2 + 0.5 * row["coverage"], ridge=1e-6, error=0.1):
    rows = sets()
    transforms = {"coverage": "identity", "distance": "minus_log"}
    measured = [ratio(row) for row in rows]
    return fit_calibration(rows, measured, transforms, ridge=ridge, error=error, **RANGE)


def test_a_straight_line_is_found():
    made = fitted()
    for coverage in (0.1, 0.5, 0.9):
        row = {"coverage": coverage, "distance": 0.5}
        assert made.ratio(row) == pytest.approx(0.2 + 0.5 * coverage, abs=1e-4)


def test_no_diagnostic_can_count_the_wrong_way():
    made = fitted(lambda row: 1.0 - 0.5 * row["coverage"] + 0.2 * row["distance"])
    assert [term.weight for term in made.terms] == [0.0, 0.0]


def test_better_diagnostics_never_predict_less():
    made = fitted(lambda row: 0.5 * row["coverage"] - 0.1 * row["distance"] + 0.3, ridge=5.0)
    row = {"coverage": 0.5, "distance": 0.5}
    assert made.linear({**row, "coverage": 0.6}) > made.linear(row)
    assert made.linear({**row, "distance": 0.4}) > made.linear(row)


def test_a_prediction_is_a_share_and_its_interval_holds_it():
    made = fitted(lambda row: 3 * row["coverage"] - 1, error=0.3)
    for row in sets(10):
        found = made.predict(row, CONTRACT)
        assert isinstance(found, Prediction)
        assert 0 <= found.low <= found.ratio <= found.high <= 1


@pytest.mark.parametrize(
    ("values", "contract", "reason"),
    [
        ({}, {"classes": 100}, "100 classes; measured with 3"),
        ({}, {"size": (64, 64)}, "64 x 64 pixels; measured from 8 to 32"),
        ({"coverage": 1.9}, {}, "coverage 1.9 lies far from all"),
        ({"distance": 40.0}, {}, "distance 40 lies far from all"),
        ({"distance": None}, {}, "distance is missing"),
    ],
)
def test_outside_of_what_was_measured_nothing_is_predicted(values, contract, reason):
    fields = {"size": (8, 8), "channels": 1, "mean": (0.5,), "std": (0.5,), "classes": 3}
    row = {"coverage": 0.5, "distance": 0.5} | values
    row = {name: value for name, value in row.items() if value is not None}
    found = fitted().predict(row, InputContract(**(fields | contract)))
    assert isinstance(found, NotCalibrated)
    assert reason in found.reason


def test_a_calibration_survives_json():
    made = fitted()
    assert Calibration.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_diagnostic_that_never_varies_is_refused():
    rows = [{"coverage": 0.5} for _ in range(4)]
    with pytest.raises(ValueError, match="no set differs from another in coverage"):
        fit_calibration(rows, [0.1] * 4, {"coverage": "identity"}, ridge=1, error=0.1, **RANGE)


def test_the_error_is_the_one_nine_in_ten_stay_below():
    predicted = [0.5] * 101
    measured = [0.5 + i / 1000 for i in range(101)]
    assert error_of(predicted, measured) == pytest.approx(0.09)
