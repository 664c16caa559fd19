from dataclasses import replace

import pytest

from doublure.compress.inherit import Inherit
from doublure.engine.answer_ring import Ring
from doublure.engine.budget import StepTiming
from doublure.engine.fit import FitSettings
from doublure.engine.planning import Costs, plan_stage
from doublure.engine.recipe import Stage
from doublure.objectives.soft_targets import SoftTargets
from doublure.sources.augmentation import Augmented
from doublure.sources.balanced import Balanced
from doublure.sources.combined import Combined
from doublure.sources.matched import Matched
from doublure.sources.noise import Noise
from doublure.sources.replay import Replay
from doublure.sources.shaders import Shaders
from doublure.sources.short_inversion import ShortInversion

SEARCH = ShortInversion(source=Matched(source=Shaders()))
POOL = Replay(source=SEARCH, share=0.5, until=0.8)


def stage_of(source, num_images=0):
    init = Inherit(num_images=num_images) if num_images else None
    return Stage(source=source, objective=SoftTargets(), fit=FitSettings(steps=1000), init=init)


def costs(*, step=0.1, batch=2.0, beside=2.0, begin=0.0, filling=0.0):
    timing = StepTiming(step=step, filling=filling, spent=0.0)
    return Costs(begin=begin, batch=batch, beside=beside, timing=timing)


def planned(source, seconds, num_images=0, **timed):
    stage = stage_of(source, num_images)
    return plan_stage(stage, seconds, lambda _: costs(**timed), lambda: 0.0)


def test_a_pool_with_a_share_gets_half_of_it_before_the_first_step_and_half_later():
    stage, (line,) = planned(POOL, 110.0, num_images=256, begin=10.0)
    # 100 s: 25 for 12 batches of 2 s before, 25 for 6 of 4 s while it learns, 50 for 500 steps
    assert (stage.source.first, stage.fit.steps) == (12, 500)
    assert stage.source.every == int(0.8 * 500 / 6)
    assert "12 batches of images before step 0" in line


def test_the_pool_is_found_inside_of_what_is_around_it():
    around = Augmented(source=Combined(sources=(POOL, Shaders()), shares=(0.75, 0.25)))
    stage, _ = planned(around, 100.0)
    assert stage.source.source.sources[0].first == 12
    assert stage.source.source.sources[1] == Shaders()


def test_a_ring_draws_less_often_so_the_pool_grows_in_fewer_draws():
    stage = replace(stage_of(POOL), ring=Ring(reuse=4))
    made, _ = plan_stage(stage, 100.0, lambda _: costs(), lambda: 0.0)
    assert made.source.every == int(0.8 * 500 / 4 / 6)


def test_a_beginning_that_would_eat_the_budget_sees_fewer_images():
    stage, _ = planned(POOL, 100.0, num_images=2560, begin=5.0)
    # 5 (0.4 + 0.6 n) stays below 15 for n = 4
    assert stage.init.num_images == 4 * 256


def test_it_is_timed_with_a_pool_of_one_batch_that_does_not_grow():
    seen = []

    def time_stage(trial):
        seen.append(trial.source)
        return costs()

    plan_stage(stage_of(POOL), 100.0, time_stage, lambda: 0.0)
    assert seen[0].first == 1
    assert seen[0].every > 1000


def test_where_no_batch_can_be_afforded_the_search_gives_way_to_its_starts():
    stage, lines = planned(POOL, 10.0, batch=30.0)
    assert stage.source == Matched(source=Shaders())
    assert "no images are optimised: a batch of them takes 30 s here" in lines
    assert stage.fit.steps == 100


def test_a_pool_that_would_eat_the_budget_is_made_smaller():
    source = Balanced(source=Noise(), pool_size=1000)
    stage, lines = planned(source, 100.0, filling=400.0)
    assert stage.source.pool_size == 100
    assert stage.fit.steps == 600
    assert "0.10 times as large" in lines[0]


def test_without_a_pool_all_that_is_left_is_steps():
    stage = stage_of(Noise(), num_images=256)
    stage, _ = plan_stage(stage, 100.0, lambda _: costs(begin=5.0, batch=0.0), lambda: 15.0)
    assert stage.fit.steps == 800


def test_a_budget_that_leaves_no_step_is_refused_with_its_reasons():
    with pytest.raises(ValueError, match="leaves no step: getting ready took 12s"):
        planned(Noise(), 10.0, num_images=256, begin=12.0, batch=0.0)
