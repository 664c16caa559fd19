import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from doublure.audits.calibration import (
    WIDEST,
    Calibration,
    NotCalibrated,
    Prediction,
    committed,
    error_of,
    fit_calibration,
)
from doublure.audits.ranking import RANKED_BY
from doublure.core.protocols import InputContract
from doublure.core.seeding import from_seed
from tests.tiny import CONTRACT

COUNT = 256
RANGE = {"classes": (3, 3), "side": (8, 32), "count": COUNT, "tasks": ("made up",)}


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
    made = fitted(lambda row: 3 * row["coverage"] - 1, error=WIDEST)
    for row in sets(10):
        found = made.predict(row, CONTRACT, COUNT)
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
    found = fitted().predict(row, InputContract(**(fields | contract)), COUNT)
    assert isinstance(found, NotCalibrated)
    assert reason in found.reason


@pytest.mark.parametrize("error", [WIDEST + 1e-6, 0.63, math.inf, math.nan])
def test_what_missed_another_task_widely_predicts_nothing_and_says_so(error):
    found = fitted(error=error).predict(sets(1)[0], CONTRACT, COUNT)
    assert isinstance(found, NotCalibrated)
    assert f"off by {error:.2f}; none is given above 0.15" in found.reason


def test_another_number_of_images_than_was_measured_predicts_nothing():
    found = fitted().predict(sets(1)[0], CONTRACT, 4096)
    assert found == NotCalibrated(reason="4,096 images were scored; measured with 256")


def test_the_weights_are_those_of_ridge_regression_where_none_would_be_negative():
    rows = sets()
    values = np.array([[row["coverage"], -math.log(row["distance"])] for row in rows])
    x = (values - values.mean(0)) / values.std(0)
    y = np.array([0.2 + 0.5 * row["coverage"] - 0.2 * row["distance"] for row in rows])
    expected = np.linalg.solve(x.T @ x + 3 * np.eye(2), x.T @ (y - y.mean()))
    made = fitted(lambda row: 0.2 + 0.5 * row["coverage"] - 0.2 * row["distance"], ridge=3.0)
    assert [term.weight for term in made.terms] == pytest.approx(expected)
    assert made.intercept == pytest.approx(y.mean())


def test_what_the_package_carries_predicts_nothing_while_it_misses_widely():
    shipped = committed()
    assert {term.name for term in shipped.terms} <= set(RANKED_BY)
    classes, side = shipped.classes[0], shipped.side[1]
    contract = replace(CONTRACT, size=(side, side), classes=classes)
    middle = {term.name: math.exp(-term.mean) for term in shipped.terms}
    found = shipped.predict(middle, contract, shipped.count)
    assert isinstance(found, Prediction if shipped.error <= WIDEST else NotCalibrated)


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
