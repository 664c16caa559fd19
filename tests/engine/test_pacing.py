import math

import pytest
import torch

from doublure.engine.fit import FitSettings
from doublure.engine.pacing import Pacer, StepRecord, steps_left
from doublure.engine.schedules import Cosine, progress_at


def run(seconds_of, deadline, steps, metrics=lambda step: {}):
    """Return the settings a run ends with, and when it does."""
    clock = [0.0]
    adopted = []

    def adopt(settings):
        adopted.append(settings)
        return settings

    pacer = Pacer(deadline, lambda: clock[0], adopt, torch.device("cpu"))
    settings, step = FitSettings(steps=steps), 0
    while step < settings.steps:
        clock[0] += seconds_of(step)
        step += 1
        if step < settings.steps:
            settings = pacer(step, metrics(step), settings)
    return settings, clock[0]


def test_a_plan_that_holds_is_left_alone():
    settings, ended = run(lambda _: 0.5, 500.0, 1000)
    assert settings == FitSettings(steps=1000)
    assert ended == 500.0


@pytest.mark.parametrize("planned", [100, 300, 3000])
def test_a_wrong_plan_ends_in_time_all_the_same(planned):
    settings, ended = run(lambda _: 0.5, 500.0, planned)
    assert 480 <= ended <= 502
    assert settings.first_planned == planned


def test_a_host_that_gets_twice_as_slow_on_the_way_is_made_up_for():
    settings, ended = run(lambda step: 0.5 if step < 500 else 1.0, 500.0, 1000)
    assert 480 <= ended <= 515
    assert 700 <= settings.steps <= 780


def test_the_first_step_prepares_and_counts_for_none():
    _, ended = run(lambda step: 100.0 if step == 0 else 0.5, 500.0, 1000)
    assert 480 <= ended <= 502


def test_a_pool_that_grows_is_counted_on_to_go_on_growing():
    def grows(step):
        return step % 50 == 0

    _, ended = run(
        lambda step: 5.5 if grows(step) else 0.5,
        600.0,
        5000,
        lambda step: {"pool": torch.tensor(0.1 + 0.9 * (step // 50) / 20)},
    )
    assert 570 <= ended <= 612


def test_a_pool_that_fills_early_leaves_its_time_to_later_steps():
    plain = [StepRecord(0.5, 0.0)] * 10
    filling = [StepRecord(1.5, 0.01)] * 10
    # 10 growths of 1 s to come, one every second step: 20 steps, and 0.5 s for all
    assert steps_left(plain + filling, 60.0, 0.1) == 100
    # the pool will not be full when time is up: 1 s a step
    assert steps_left(plain + filling, 60.0, 0.9) == 60


def test_nobody_can_tell_from_a_few_steps_or_while_all_of_them_fill():
    assert steps_left([StepRecord(0.5, 0.0)] * 5, 60.0, 0.0) is None
    assert steps_left([StepRecord(0.5, 0.01)] * 30, 60.0, 0.1) is None


def test_progress_goes_on_from_where_it_was():
    # half of 100 steps, then the other half within 25
    assert progress_at(50, 75, ((50, 100),)) == 0.5
    assert progress_at(60, 75, ((50, 100),)) == pytest.approx(0.7)
    assert progress_at(75, 75, ((50, 100),)) == 1.0
    assert progress_at(70, 80, ((50, 100), (60, 75))) == pytest.approx(0.85)


def test_what_was_done_before_a_correction_is_not_changed_by_it():
    before = FitSettings(steps=977, schedule=Cosine())
    once = FitSettings(steps=1500, replanned=((600, 977),), schedule=Cosine())
    twice = FitSettings(steps=1300, replanned=((600, 977), (900, 1500)), schedule=Cosine())
    assert all(before.rate_at(step) == once.rate_at(step) for step in range(600))
    assert all(once.rate_at(step) == twice.rate_at(step) for step in range(900))


def test_a_corrected_schedule_falls_to_zero_at_its_new_end():
    settings = FitSettings(steps=300, replanned=((500 // 5, 1000),), schedule=Cosine(warmup=0.0))
    rates = [settings.rate_at(step) for step in range(300)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-4
    assert math.isclose(rates[0], settings.learning_rate)
