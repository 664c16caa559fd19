import dataclasses

import torch

from tests import tiny
from understudy import summary
from understudy.fit import FitSettings, Outcome
from understudy.nets.network import Network
from understudy.objectives.logit_l1 import LogitL1
from understudy.recipe import Stage
from understudy.sources.dfad import Dfad
from understudy.sources.noise import Noise


def network(seed: int) -> Network:
    return Network(tiny.network(seed), tiny.CONTRACT).eval()


def stage(source) -> Stage:
    return Stage(source=source, objective=LogitL1(), fit=FitSettings(batch_size=8))


def test_after_a_game_with_the_student_both_are_compared_on_one_fixed_set_of_shaders():
    one, other = (
        summary.answer_held_out(stage(Dfad()), seed, network(0), network(1), count=8)
        for seed in (0, 1)
    )
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.teacher, other.teacher)
    assert one.on == "a fixed set of shader images; none of what was shown could be held out"


def test_of_other_sources_images_are_held_out_by_the_seed():
    one, other = (
        summary.answer_held_out(stage(Noise()), seed, network(0), network(1), count=8)
        for seed in (0, 1)
    )
    assert not torch.equal(one.images, other.images)
    assert "noise" in one.on


def test_a_generator_that_was_started_afresh_is_said_in_the_summary():
    facts = {"generator_restarts": 0.0}
    well = Outcome(network=network(0), steps=1, images=1, seconds=1.0, terms={"facts": facts})
    assert summary._warnings([well]) == []
    ill = dataclasses.replace(well, terms={"facts": {"generator_restarts": 1.0}})
    assert summary._warnings([well, ill]) == [
        "The generator collapsed while the student learnt, and was started afresh."
    ]
