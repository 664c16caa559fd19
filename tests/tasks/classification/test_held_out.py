import numpy as np
import torch

from doublure.core.protocols import Outputs, image_batch
from doublure.engine.fit import FitSettings
from doublure.engine.recipe import Stage
from doublure.nets.network import Network
from doublure.objectives.logit_l1 import LogitL1
from doublure.sources.augmentation import Augmented
from doublure.sources.dfad import DFAD
from doublure.sources.noise import Noise
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.held_out import answer_held_out, answer_shown
from tests import tiny


def network(seed: int) -> Network:
    return Network(tiny.network(seed), tiny.CONTRACT).eval()


def stage(source) -> Stage:
    return Stage(source=source, objective=LogitL1(), fit=FitSettings(batch_size=8))


def test_after_a_game_with_the_student_both_are_compared_on_one_fixed_set_of_shaders():
    one, other = (
        answer_held_out(stage(DFAD()), seed, network(0), network(1), count=8) for seed in (0, 1)
    )
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.teacher, other.teacher)
    assert one.on == "shader images of a fixed set; none of what was shown could be held out"


def test_where_nothing_is_held_out_of_the_images_on_disk_both_are_compared_on_shaders(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", x=images)
    source = Surrogate(data=str(tmp_path / "one.npz"), held_out=0.0)
    one, other = (
        answer_held_out(stage(wanted), 0, network(0), network(1), count=8)
        for wanted in (source, DFAD())
    )
    assert torch.equal(one.images, other.images)
    assert one.on == "shader images of a fixed set; nothing of the transfer set was held out"


def test_views_of_the_same_images_on_disk_are_counted_apart_from_those(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", x=images)
    source = Augmented(source=Surrogate(data=str(tmp_path / "few.npz"), held_out=0.2))
    found = answer_held_out(stage(source), 0, network(0), network(1), count=64)
    assert len(found.student) == 64
    assert 0 < found.distinct < 40
    assert answer_held_out(stage(Noise()), 0, network(0), network(1), count=8).distinct is None


def test_of_other_sources_images_are_held_out_by_the_seed():
    one, other = (
        answer_held_out(stage(Noise()), seed, network(0), network(1), count=8) for seed in (0, 1)
    )
    assert not torch.equal(one.images, other.images)
    assert "noise" in one.on


def test_answers_that_are_no_classes_are_not_shown():
    batch = image_batch(torch.rand(2, 1, 8, 8), teacher=Outputs(output={"boxes": torch.zeros(2)}))
    assert answer_shown(batch, network(0)) is None
    assert answer_shown(image_batch(torch.rand(2, 1, 8, 8)), network(0)) is None
    assert answer_shown(None, network(0)) is None
