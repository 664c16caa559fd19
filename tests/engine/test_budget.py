from types import SimpleNamespace

import pytest

from doublure.engine.budget import Lap, StepTiming, steps_within
from doublure.engine.run_options import RunOptions


def test_what_was_spent_and_what_fills_the_pool_is_taken_off_first():
    timing = StepTiming(step=0.5, filling=20.0, spent=10.0)
    assert steps_within(130.0, timing) == 200


def test_a_budget_too_small_for_one_step_is_refused_with_its_reasons():
    with pytest.raises(ValueError, match="leaves no step: getting ready took 10s"):
        steps_within(10.0, StepTiming(step=0.5, filling=0.0, spent=10.0))


def test_steps_that_fill_a_pool_are_told_from_plain_ones():
    clock = iter([0.0, *(float(t) for t in (9, 18, 20, 29, 31, 40, 42, 51, 53, 62, 64))])
    lap = Lap(lambda: next(clock))
    for step in range(11):  # every second step adds a hundredth and takes 9 s, the others 2 s
        lap({"metrics": {"pool": 0.01 * (1 + (step + 1) // 2)}})
    timing = lap.timing(planned=1000)
    assert timing.step == pytest.approx(2.0)
    assert timing.filling == pytest.approx(7.0 * (1 - 0.06) / 0.01)
    assert timing.spent == 64.0


def test_without_a_pool_every_step_is_plain():
    clock = iter(float(t) for t in range(0, 100, 3))
    lap = Lap(lambda: next(clock))
    for _ in range(20):
        lap({"loss": 1.0, "metrics": {}})
    assert lap.timing(planned=1000) == StepTiming(step=3.0, filling=0.0, spent=60.0)


def test_a_pool_that_grows_seldom_is_told_by_the_first_step_and_shared_out():
    clock = iter([0.0, 42.0, *(42.0 + 2 * step for step in range(1, 20))])
    lap = Lap(lambda: next(clock))
    for _ in range(20):  # the first step makes four of 20 batches at 10 s each; 2 s a step
        lap({"metrics": {"pool": 0.2}})
    timing = lap.timing(planned=80)
    assert timing.filling == pytest.approx(40.0)
    assert timing.step == pytest.approx(2.0 + 160.0 / 80)


def test_what_is_done_in_rounds_is_shared_out_among_the_steps_between_two():
    clock = iter([0.0, *(float(t) for t in _ends(20, every=8, each=2, more=24))])
    lap = Lap(lambda: next(clock))
    for _ in range(20):
        lap({"metrics": {"round": 8.0}})
    assert lap.timing(planned=1000) == StepTiming(step=2.0 + 24.0 / 8, filling=0.0, spent=112.0)


def test_a_round_in_a_step_that_fills_the_pool_as_well_is_not_taken_for_filling():
    seconds = [2 + 7 * (step % 2 == 0) + 24 * (step % 8 == 0) for step in range(20)]
    clock = iter([0.0, *(float(sum(seconds[: step + 1])) for step in range(20))])
    lap = Lap(lambda: next(clock))
    for step in range(20):
        lap({"metrics": {"round": 8.0, "pool": 0.01 * (1 + step // 2)}})
    timing = lap.timing(planned=1000)
    assert timing.step == pytest.approx(2.0 + 24.0 / 8)
    assert timing.filling == pytest.approx(7.0 * (1 - 0.1) / 0.01)


def test_a_cost_that_comes_now_and_then_counts_on_average():
    clock = iter([0.0, *(float(t) for t in _ends(20, every=3, each=2, more=3))])
    lap = Lap(lambda: next(clock))
    for _ in range(20):
        lap({"metrics": {}})
    assert lap.timing(planned=1000).step == pytest.approx(3.0)


def _ends(steps: int, *, every: int, each: int, more: int) -> list[int]:
    """Return when each step ends, where every so manyth, the first included, takes more."""
    return [each * (step + 1) + more * (step // every + 1) for step in range(steps)]


def test_a_budget_as_text_is_refused_in_python_with_the_seconds():
    with pytest.raises(TypeError, match=r'budget is in seconds, 60\.0 for "1m"; got \'1m\''):
        RunOptions.__post_init__(SimpleNamespace(budget="1m"))  # types are checked in tests alone
