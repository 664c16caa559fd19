"""Which steps are small, and what a small step shows."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import ResizingSource
from doublure.sources.interleaved import Interleaved, halve, small_probability
from doublure.sources.noise import Noise
from tests import tiny

DEFAULTS = {"share": 0.3, "schedule": "random", "full_tail": 0.1}
SCHEDULES = ("random", "alternate", "progressive", "decaying")


def small(settings: Interleaved, steps: int, *, seed: int = 0, rank: int = 0) -> list[bool]:
    context = replace(tiny.context(), steps=steps, rank=rank, world=2)
    stream = settings.open(context, None, tiny.rng(seed))
    return [stream.is_small(step) for step in range(steps)]


@given(share=st.floats(0.0, 0.8), steps=st.integers(1, 300))
def test_taking_turns_makes_exactly_as_many_small_steps(share, steps):
    count = sum(small_probability(step, steps, share, 0.1, "alternate") for step in range(steps))
    head = steps - round(0.1 * steps)
    assert count == min(int(share * steps), head)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_on_average_the_share_is_small_and_the_tail_is_full(schedule, share):
    steps = 2000
    settings = Interleaved(source=tiny.Grey(), share=share, schedule=schedule)
    found = small(settings, steps)
    deviation = (steps * share * (1 - share)) ** 0.5
    assert sum(found) == pytest.approx(share * steps, abs=3 * deviation)
    assert not any(found[1800:])
    assert found == small(settings, steps)


def test_progressive_is_small_first_and_decaying_ever_less():
    progressive = Interleaved(source=tiny.Grey(), share=0.3, schedule="progressive")
    assert small(progressive, 100) == [True] * 30 + [False] * 70
    for share in (0.3, 0.7):
        likely = [small_probability(t, 100, share, 0.1, "decaying") for t in range(90)]
        assert likely == sorted(likely, reverse=True)
        assert sum(likely) == pytest.approx(100 * share, abs=1.0)
    assert small_probability(89, 100, 0.9, 0.1, "decaying") == 1.0


def test_all_processes_have_the_same_schedule_and_other_seeds_others():
    settings = Interleaved(source=tiny.Grey(), share=0.5)
    assert small(settings, 60, rank=0) == small(settings, 60, rank=1)
    assert small(settings, 60, seed=0) != small(settings, 60, seed=1)


def test_a_small_step_shows_the_student_means_and_the_teacher_all():
    settings = Interleaved(source=tiny.Grey(labels=True), share=0.5, schedule="progressive")
    plain = tiny.Grey(labels=True).open(tiny.context(), None, tiny.rng()).draw(0, None)
    batch = settings.open(tiny.context(), None, tiny.rng()).draw(0, None)
    assert torch.equal(batch.views["teacher"], plain.images)
    assert torch.equal(batch.images, halve(plain.images))
    assert batch.images[0, 0, 0, 0] == pytest.approx(float(plain.images[0, 0, :2, :2].mean()))
    assert torch.equal(batch.labels, plain.labels)
    assert (batch.size_factor, float(batch.metrics["small_steps"])) == (0.5, 1.0)


def test_full_steps_and_held_out_images_are_those_of_the_source():
    settings = Interleaved(source=tiny.Grey(), share=0.0)
    assert isinstance(settings, ResizingSource)
    assert not settings.resizes
    held_out = replace(tiny.context(), split="held_out")
    first = Interleaved(source=tiny.Grey(), share=0.5, schedule="progressive")
    for shown, context in ((settings, tiny.context()), (first, held_out)):
        plain = tiny.Grey().open(context, None, tiny.rng()).draw(0, None)
        batch = shown.open(context, None, tiny.rng()).draw(0, None)
        assert torch.equal(batch.images, plain.images)
        assert batch.views["student"] is batch.views["teacher"]
        assert batch.size_factor == 1.0


def test_what_cannot_be_halved_is_refused():
    odd = replace(tiny.context(), contract=replace(tiny.CONTRACT, size=(7, 8)))
    with pytest.raises(ValueError, match="7 x 8 has an odd side; take an even --size"):
        Interleaved(source=tiny.Grey()).open(odd, None, tiny.rng())
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\), got 1"):
        Interleaved(source=tiny.Grey(), share=1.0)
    with pytest.raises(ValueError, match=r"full_tail must lie in \[0, 0\.05\], beside a share"):
        Interleaved(source=tiny.Grey(), share=0.95)


# The tests of all methods compare images of one size.
EXAMPLES = (Interleaved(source=Noise(), share=0.0),)
