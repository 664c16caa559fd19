import base64
import io

import numpy as np
import pytest
from PIL import Image

from doublure.reports import pictures
from doublure.reports.record import Arm, ClassScore, ExportedForm
from tests.reports.conftest import metrics


def test_the_loss_comes_first_and_scores_before_its_terms():
    names = [name for name, _ in pictures.curves(metrics())]
    assert names == ["loss", "accuracy", "agreement", "soft_targets", "boundary_support"]


def test_a_loss_of_one_term_is_drawn_once():
    rows = [{"step": step, "loss": 1.0 / (step + 1), "a": 1.0 / (step + 1)} for step in range(3)]
    assert [name for name, _ in pictures.curves(rows)] == ["loss"]


def test_a_short_run_of_one_line_names_its_step_once():
    ((_, svg),) = pictures.curves([{"step": 6, "loss": 2.25}])
    assert svg.count(">6<") == 1


def test_figures_that_are_not_finite_leave_a_curve_without_them():
    rows = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": float("nan")}, {"step": 2, "loss": 3.0}]
    ((_, svg),) = pictures.curves(rows)
    assert "from 1 to 3" in svg
    assert pictures.curves([{"step": 0, "loss": float("inf")}]) == []


def test_a_later_stage_goes_on_where_the_one_before_ended():
    rows = [{"step": step, "loss": 1.0} for step in (100, 200, 100, 200)]
    steps, _ = pictures._series(rows, "loss")
    assert steps == [100, 200, 300, 400]


def test_a_long_curve_is_averaged_to_what_the_eye_can_see():
    rows = [{"step": step, "loss": float(step % 2)} for step in range(60_000)]
    steps, values = pictures._series(rows, "loss")
    assert len(steps) == 300
    assert values == [0.5] * 300


@pytest.mark.parametrize("classes", [2, 10, 24, 25, 1000])
def test_the_histogram_serves_few_and_many_classes(classes: int):
    histogram = np.arange(classes) ** 2
    names = [f"class {place}" for place in range(classes)]
    svg = pictures.class_histogram(histogram, names)
    assert f"the most frequent is class {classes - 1} with" in svg
    assert len(svg) < 100_000
    assert ("most frequent first" in svg) == (classes > 24)


def test_an_empty_histogram_is_drawn_as_empty():
    assert pictures.class_histogram(np.zeros(3, dtype=np.int64), ["a", "b", "c"]).startswith("<svg")


@pytest.mark.parametrize(
    "name", ["$x_1$", "日本語", "_hidden", "a\nb", "", "url(#x", "&amp;", "%s"]
)
def test_any_class_name_can_be_drawn(name: str):
    svg = pictures.class_histogram(np.array([1, 2]), [name, "other"])
    if name.strip() == name and "\n" not in name:
        shown = name.replace("&", "&amp;")
        assert f">{shown}<" in svg or not name


def test_markup_in_a_class_name_stays_text():
    name = "<script>alert(1)</script>"
    scores = {name: ClassScore(count=9, teacher=0.9, student=0.8)}
    svg = pictures.class_accuracies(scores)
    assert svg is not None
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg


def test_a_long_name_is_cut():
    svg = pictures.class_histogram(np.array([1, 2]), ["great white shark, man-eater", "other"])
    assert ">great white shark…<" in svg


def test_of_many_classes_those_that_lost_most_are_drawn():
    scores = {
        f"class {place}": ClassScore(count=9, teacher=0.9, student=0.9 - place / 200)
        for place in range(100)
    }
    svg = pictures.class_accuracies(scores)
    assert svg is not None
    assert ">class 99<" in svg
    assert ">class 83<" not in svg


def test_arms_are_drawn_with_their_figures():
    arms = [Arm(name="noise", accuracy=0.2, correct=100, count=500), Arm(name="none")]
    svg = pictures.arms_chart(arms, teacher_accuracy=0.9)
    assert svg is not None
    assert ">20.0 %<" in svg
    assert "none" not in svg.replace('"fill: none"', "").replace("fill: none;", "")
    assert pictures.arms_chart([Arm(name="none")], None) is None


def test_forms_that_lie_on_each_other_share_their_names():
    forms = [
        ExportedForm(form="torch", bytes=1000, agreement=1.0),
        ExportedForm(form="onnx", bytes=1010, agreement=1.0),
        ExportedForm(form="int8", bytes=300, agreement=0.99),
    ]
    svg = pictures.forms_chart(forms, "agreement")
    assert svg is not None
    assert ">torch, onnx<" in svg
    assert ">int8<" in svg
    assert "102 %" not in svg
    assert pictures.forms_chart(forms, "accuracy") is None


def test_equal_input_gives_equal_bytes():
    assert pictures.curves(metrics()) == pictures.curves(metrics())


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_image_keeps_its_pixels(channels: int):
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, channels), dtype=np.uint8)
    (uri,) = pictures.contact_sheet(image, pictures.SHEET_BYTES)
    np.testing.assert_array_equal(pixels_of(uri).reshape(8, 8, channels), image[0])


def test_images_shrink_until_they_fit_the_budget():
    images = np.random.default_rng(0).integers(0, 256, (8, 224, 112, 3), dtype=np.uint8)
    sheet = pictures.contact_sheet(images, 100_000)
    assert sum(map(len, sheet)) <= 100_000
    assert pixels_of(sheet[0]).shape[:2] == (64, 32)
