import torch

from doublure.audits.optimisation_path import follow_optimisation
from doublure.core.seeding import from_seed
from doublure.sources.deep_inversion import DeepInversion
from doublure.sources.image_optimisation import ImageOptimisation
from doublure.sources.knowledge_within import BatchNormStatistics
from doublure.sources.noise import Noise
from tests import taught

SEARCH = ImageOptimisation(iterations=60, learning_rate=0.1, jitter=1, clamp=True)


def test_the_teacher_grows_sure_of_what_it_names_in_the_end():
    followed = follow_optimisation(
        DeepInversion(features=1.0, optimisation=SEARCH), taught.teacher(), None, from_seed(0)
    )
    assert followed.path.iterations == (0, 1, 3, 12, 30, 60)
    assert followed.sure.shape == (6, 6)
    answers = taught.teacher()(followed.path.images[-1]).softmax(-1)
    assert torch.equal(followed.named, answers.argmax(-1))
    torch.testing.assert_close(followed.sure[-1], answers.max(-1).values)
    assert followed.sure[-1].mean() > followed.sure[0].mean() + 0.4


def test_six_images_have_a_way_also_without_labels():
    followed = follow_optimisation(
        BatchNormStatistics(optimisation=SEARCH), taught.teacher(), None, from_seed(0)
    )
    assert all(len(images) == 6 for images in followed.path.images)


def test_a_source_that_searches_for_nothing_has_no_way_to_show():
    assert follow_optimisation(Noise(), taught.teacher(), None, from_seed(0)) is None
