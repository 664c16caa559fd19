from dataclasses import replace

import pytest

from doublure.compress.inherit import Inherit
from doublure.engine.answer_ring import Ring
from doublure.engine.fit import FitSettings
from doublure.engine.optimizers import SGD, AdamW
from doublure.engine.planning import plan_stage
from doublure.engine.recipe import Stage
from doublure.engine.stage_costs import Costs
from doublure.objectives.soft_targets import SoftTargets
from doublure.sources.augmentation import Augmented
from doublure.sources.balanced import Balanced
from doublure.sources.combined import Combined
from doublure.sources.deep_inversion import DeepInversion
from doublure.sources.matched import Matched
from doublure.sources.noise import Noise
from doublure.sources.replay import Replay
from doublure.sources.shaders import Shaders
from doublure.sources.short_inversion import ShortInversion

SEARCH = ShortInversion(source=Matched(source=Shaders()))
POOL = Replay(source=SEARCH, share=0.5, until=0.8)
INVERTED = Replay(source=DeepInversion())


def stage_of(source, num_images=0):
    init = Inherit(num_images=num_images) if num_images else None
    return Stage(source=source, objective=SoftTargets(), fit=FitSettings(steps=1000), init=init)


def costs(*, step=0.1, batch=2.0, beside=2.0, begin=0.0, image=0.0):
    return Costs(begin=begin, batch=batch, beside=beside, image=image, step=step)


def planned(source, seconds, num_images=0, **timed):
    return plan_stage(stage_of(source, num_images), costs(**timed), seconds)


def test_a_pool_with_a_share_gets_half_of_it_before_the_first_step_and_half_later():
    # 100 s: 25 for 12 batches of 2 s before, 25 for 6 of 4 s while it learns, 50 for 500 steps
    stage, (line,) = planned(POOL, 100.0)
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
    made, _ = plan_stage(stage, costs(), 100.0)
    assert made.source.every == int(0.8 * 500 / 4 / 6)


def test_how_the_weights_begin_is_taken_off_first():
    # 10 (0.4 + 0.6 * 2) = 16 s on 256 images, of which 15 % are 36
    stage, (line,) = planned(POOL, 240.0, num_images=256, begin=10.0)
    assert stage.init.num_images == 256
    assert stage.fit.steps == int(0.5 * 224 / 0.1)
    assert "16 to begin" in line


def test_a_beginning_that_would_eat_the_budget_sees_fewer_images():
    stage, _ = planned(POOL, 100.0, num_images=2560, begin=5.0)
    # 5 (0.4 + 0.6 * 2 n) on n batches of 256 stays below 15 for n = 2
    assert stage.init.num_images == 2 * 256


def test_where_two_batches_cannot_be_afforded_they_are_made_smaller():
    stage, lines = planned(POOL, 100.0, batch=50.0)
    # 25 s before step 0 for two batches: 12.5 s instead of 50 for each
    assert stage.source.made_at_once == 64
    assert stage.source.first == 2
    assert "64 images are made at once, in place of 256" in lines[0]


def test_where_no_batch_can_be_afforded_the_search_gives_way_to_its_starts():
    stage, lines = planned(POOL, 20.0, batch=600.0, step=0.01)
    assert stage.source == Matched(source=Shaders())
    assert "no images are optimised: a batch of them takes 600 s here" in lines
    assert stage.fit.steps == 2000


def test_a_published_pool_that_fits_stays_as_published():
    # 4 batches of 1 s; 0.05 s of a step for one batch in 50 beside, at 2.5 s
    stage, _ = planned(INVERTED, 154.01, batch=1.0, beside=2.5)
    assert (stage.source.first, stage.source.every) == (4, 50)
    assert stage.fit.steps == 1000


def test_a_search_that_would_eat_the_budget_takes_fewer_iterations():
    # 25 s before step 0 for two batches of 12.5 s, where 2 000 iterations take 1 000
    stage, lines = planned(INVERTED, 100.0, batch=1000.0, beside=1.0)
    assert stage.source.source.optimisation.iterations == 25
    assert "25 iterations in place of 2000" in lines[0]
    assert stage.source.first == 2
    assert stage.fit.steps == 500


@pytest.mark.parametrize(("optimizer", "rate"), [(SGD(), 0.025), (AdamW(), 0.1)])
def test_where_few_steps_would_fit_batches_are_smaller_and_so_is_the_rate_of_sgd(optimizer, rate):
    stage = stage_of(Noise())
    stage = replace(stage, fit=replace(stage.fit, optimizer=optimizer))
    made, lines = plan_stage(stage, costs(step=1.0), 60.0)
    # 30 steps of 256 images in half of the time, 60 of 128, 120 of 64
    assert made.fit.batch_size == 64
    assert made.fit.learning_rate == pytest.approx(rate)
    assert made.fit.steps == 240
    assert "batches of 64 in place of 256" in lines[0]


def test_batches_divide_among_processes_however_small():
    made, _ = plan_stage(stage_of(Noise()), costs(step=1.0), 20.0, world=64)
    assert made.fit.batch_size == 64


def test_a_short_run_keeps_as_many_images_as_are_worth_it():
    source = Balanced(source=Noise(), pool_size=50_000, least_showings=16)
    # a step of 0.1 s and 16 images of 0.00625 s with it: 500 steps, 8 000 images
    stage, _ = planned(source, 100.0, image=0.00625)
    assert stage.source.pool_size == 6400  # of 0.4 * 100 s
    assert stage.fit.steps == 600
    stage, (line,) = planned(source, 100.0, image=0.001)
    assert stage.source.pool_size == 50_000
    assert "14 to fill pools, 862 steps" in line


def test_without_a_pool_all_that_is_left_is_steps():
    stage, _ = planned(Noise(), 100.0, num_images=256, begin=5.0)
    assert stage.fit.steps == int(92 / 0.1)  # 5 (0.4 + 0.6 * 2) to begin


def test_a_budget_always_leaves_a_step():
    stage, _ = planned(Noise(), 0.5, num_images=256, begin=12.0, step=2.0)
    assert stage.fit.steps == 1
    assert stage.init.num_images <= 256
