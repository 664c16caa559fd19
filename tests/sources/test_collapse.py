import dataclasses
import math
import warnings

import pytest
import torch
from torch import nn

from doublure.sources.collapse import (
    CollapseCheck,
    CollapseError,
    CollapseWatch,
    Look,
    cohens_kappa,
    duplicate_share,
    measure,
)
from tests import tiny
from tests.tiny import context, rng

WELL = Look(entropy=0.9, doubt=0.1, duplicates=0.0, commonest=0.2, gap=0.5, kappa=0.4)


class Sure(nn.Module):
    """Names the class that the mean grey of an image falls into, and is sure of it."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images):
        named = (images.mean((1, 2, 3)) * self.classes).long().clamp(max=self.classes - 1)
        return 20.0 * nn.functional.one_hot(named, self.classes).float()


class Halves(nn.Module):
    """Names the brighter of two neighbouring pixels."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row = row

    def forward(self, images):
        first = images[:, 0, self.row, 0] > images[:, 0, self.row, 1]
        return 20.0 * nn.functional.one_hot(first.long(), 3).float()


def constant(num_images, rng):
    return torch.full((num_images, 1, 8, 8), 0.25)


def varied(num_images, rng):
    grey = torch.rand(num_images, 1, 1, 1, generator=rng)
    return grey.expand(-1, 1, 8, 8).contiguous()


def watch(**changes) -> CollapseWatch:
    return CollapseWatch(CollapseCheck(**({"every": 4, "count": 32} | changes)), context(), Sure())


def test_a_duplicate_is_no_farther_than_one_step_of_eight_bits():
    images = torch.zeros(4, 1, 8, 8)
    images[1] += 0.9 / 255
    images[2] += 0.5
    images[3] += 0.5 + 1.1 / 255
    assert duplicate_share(images) == 0.5


def test_kappa_by_hand():
    one, other = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    # observed 3/4; expected 1/2 * 1/4 + 1/2 * 3/4 = 1/2
    assert cohens_kappa(one, other, 2) == pytest.approx(0.5)
    assert cohens_kappa(one, one, 2) == 1.0
    assert cohens_kappa(one * 0, other, 2) == pytest.approx(0.0)
    assert math.isnan(cohens_kappa(one * 0, one * 0, 2))


def test_a_look_tells_what_the_teacher_makes_of_the_images():
    images = torch.tensor([0.1, 0.5, 0.5, 0.9]).view(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous()
    look = measure(images, Sure(), None, context(), rng())
    assert look.commonest == 0.5
    assert look.entropy == pytest.approx(1.5 * 0.693147 / 1.098612, abs=1e-5)
    assert look.doubt < 1e-6
    assert look.duplicates == 0.5
    assert (look.gap, look.kappa) == (None, None)


def test_a_student_that_equals_its_teacher_is_not_at_chance():
    look = measure(varied(64, rng()), Sure(), Sure(), context(), rng())
    assert look.gap == 0
    assert CollapseCheck().reason(look) is None


def test_a_student_that_only_agrees_on_the_generators_images_is_at_chance():
    noise = torch.rand(256, 1, 8, 8, generator=rng(1))
    found = measure(noise, Halves(0), Halves(0), context(), rng())
    lost = measure(noise, Halves(0), Halves(1), context(), rng())
    assert found.kappa == 1
    assert lost.kappa is not None
    assert abs(lost.kappa) < 0.2
    said = CollapseCheck().reason(dataclasses.replace(lost, gap=0.0, kappa=0.0))
    assert said is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"duplicates": 0.8}, "80% of its new images are duplicates"),
        (
            {"entropy": 0.0, "commonest": 1.0},
            "the teacher assigns 100% of its new images to one class",
        ),
        (
            {"gap": 0.001, "kappa": 0.0},
            "the loss is near zero on its images, but the student is at ch",
        ),
        ({"gap": 0.001, "kappa": 0.5}, None),
        ({"gap": 0.5, "kappa": 0.0}, None),
    ],
)
def test_what_counts_as_collapse(change, reason):
    said = CollapseCheck().reason(dataclasses.replace(WELL, **change))
    assert said is None if reason is None else said.startswith(reason)


def test_a_generator_that_varies_is_left_alone():
    watching = watch(patience=1)
    for step in (4, 8, 12):
        assert not watching.must_restart(step, varied, None, rng(step))
    assert watching.metrics()["generator_restarts"] == 0
    assert watching.metrics()["generator_entropy"] > 0.8


def test_a_stuck_generator_is_warned_of_started_afresh_once_and_then_stops_the_run():
    watching = watch(patience=2)
    assert not watching.must_restart(4, constant, None, rng())
    with pytest.warns(RuntimeWarning, match="by draw 8: 100% of its new images are duplicates"):
        assert watching.must_restart(8, constant, None, rng())
    assert watching.metrics()["generator_restarts"] == 1
    assert not watching.must_restart(12, constant, None, rng())
    with pytest.raises(
        CollapseError, match=r"by draw 16, also after it was re-initialised: 100% of"
    ):
        watching.must_restart(16, constant, None, rng())


def test_one_good_look_ends_the_count():
    watching = watch(patience=2)
    for make in (constant, varied, constant, varied):
        assert not watching.must_restart(4, make, None, rng())


def test_what_it_has_seen_survives_a_checkpoint():
    watching = watch(patience=1)
    with pytest.warns(RuntimeWarning):
        watching.must_restart(4, constant, None, rng())
    again = watch(patience=1)
    again.load_state_dict(watching.state_dict())
    with pytest.raises(CollapseError):
        again.must_restart(8, constant, None, rng())


def test_looks_are_due_every_so_many_draws_and_never_at_the_first():
    assert [step for step in range(9) if watch().due(step)] == [4, 8]
    assert not any(watch(every=0).due(step) for step in range(9))


def test_nothing_is_said_about_a_look_that_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch().must_restart(4, varied, tiny.network(1), rng())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": -1}, "every must not be negative, got -1"),
        ({"count": 0}, "count must be positive, got 0"),
        ({"most_duplicates": 1.5}, r"most_duplicates must lie in \[0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        CollapseCheck(**change)
