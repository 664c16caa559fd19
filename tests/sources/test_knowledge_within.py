import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doublure.core.protocols import Batch, OptimisedSource, Source
from doublure.core.seeding import from_seed
from doublure.nets.batchnorm_statistics import (
    MomentsRecorder,
    batchnorm_kl,
    stored_statistics,
)
from doublure.nets.network import freeze
from doublure.sources.image_optimisation import ImageOptimisation
from doublure.sources.inversion import LossInputs
from doublure.sources.knowledge_within import (
    COMBINED,
    BatchNormStatistics,
    Inceptionism,
    batch_norm_statistics_for,
    blur,
    inceptionism_for,
    roughness,
    within_loss,
)
from tests import taught, tiny

EXAMPLES = (
    Inceptionism(optimisation=tiny.SEARCH),
    BatchNormStatistics(optimisation=tiny.SEARCH, granularity="set"),
)

SEARCH = ImageOptimisation(iterations=60, learning_rate=0.1, jitter=1, clamp=True)


def drawn(settings: Source, steps: int = 1, count: int = 30) -> list[Batch]:
    stream = settings.open(taught.context(count), taught.teacher(), from_seed(0))
    return [stream.draw(step, None) for step in range(steps)]


def divergence(images: Tensor) -> float:
    teacher = taught.teacher()
    known = stored_statistics(teacher)
    with torch.no_grad(), MomentsRecorder(teacher, known) as recorder:
        teacher(images)
        return batchnorm_kl(recorder.read(), known).item()


def test_a_point_is_blurred_to_a_gaussian_and_an_even_image_stays():
    point = torch.zeros(1, 2, 9, 9)
    point[0, 1, 4, 4] = 1
    blurred = blur(point)
    weights = torch.tensor([math.exp(-(d**2) / 2) for d in range(-2, 3)])
    weights = weights / weights.sum()
    torch.testing.assert_close(blurred[0, 1, 2:7, 2:7], weights[:, None] * weights)
    assert blurred[0, 0].abs().max() == 0
    torch.testing.assert_close(blur(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 5, 5))


def test_noise_is_rough_by_what_the_blur_takes_from_it():
    noise = torch.randn(4, 1, 200, 200, generator=from_seed(0))
    weights = torch.tensor([math.exp(-(d**2) / 2) for d in range(-2, 3)], dtype=torch.float64)
    weights = weights / weights.sum()
    kept = weights.square().sum() ** 2  # of the variance, by a sum of independent values
    expected = 1 - 2 * weights[2] ** 2 + kept
    assert roughness(noise).item() == pytest.approx(expected.item(), rel=0.01)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    teacher = freeze(tiny.network(0))
    known, labels = stored_statistics(teacher), torch.tensor([0, 1, 2, 0])
    x = torch.randn(4, 1, 8, 8, generator=from_seed(0)).requires_grad_()
    with MomentsRecorder(teacher, known) as recorder:
        seen = LossInputs(x, x, teacher(x), recorder.read())
    by_hand = (
        2 * batchnorm_kl(seen.moments, known)
        + 3 * F.cross_entropy(seen.logits, labels)
        + 4 * roughness(x)
    )
    torch.testing.assert_close(within_loss(seen, labels, known, 2.0, 3.0, 4.0), by_hand)


def test_images_take_on_the_stored_statistics_and_bear_no_labels():
    (batch,) = drawn(BatchNormStatistics(optimisation=SEARCH))
    noise = torch.rand(30, 1, 8, 8, generator=from_seed(1))
    assert divergence(batch.images) < 0.2 * divergence(noise)
    assert batch.labels is None
    assert "recognised" not in batch.metrics


def test_with_labels_the_images_are_also_called_by_them():
    (batch,) = drawn(BatchNormStatistics(divergence=1.0, cross_entropy=1.0, optimisation=SEARCH))
    assert batch.metrics["recognised"] > 0.8
    assert batch.labels.bincount(minlength=10).tolist() == [3] * 10


def test_inceptionism_finds_smooth_images_of_the_classes_that_the_statistics_do_not_know():
    (smooth,) = drawn(Inceptionism(optimisation=SEARCH))
    (rough,) = drawn(Inceptionism(optimisation=SEARCH, smoothness=0.0))
    (known,) = drawn(BatchNormStatistics(optimisation=SEARCH))
    assert smooth.metrics["recognised"] > 0.8
    assert roughness(smooth.images) < 0.7 * roughness(rough.images)
    assert divergence(known.images) < 0.3 * divergence(smooth.images)


def test_a_set_has_the_statistics_where_its_single_batches_may_not():
    batches = drawn(BatchNormStatistics(optimisation=SEARCH), steps=3, count=6)
    whole = drawn(BatchNormStatistics(optimisation=SEARCH, granularity="set"), steps=3, count=6)
    assert torch.equal(batches[0].images, whole[0].images)
    of_batches, of_set = (
        divergence(torch.cat([batch.images for batch in drawn])) for drawn in (batches, whole)
    )
    assert of_set < of_batches


def test_the_jitter_goes_by_the_size_of_the_images():
    assert inceptionism_for(taught.CONTRACT).optimisation.jitter == 1
    assert batch_norm_statistics_for(taught.CONTRACT).optimisation.jitter == 1
    assert Inceptionism().optimisation.jitter == 4


def test_the_same_picture_is_asked_to_be_as_smooth_at_any_size():
    def wave(side: int) -> Tensor:
        places = torch.arange(side) * 2 * math.pi / side
        return (places.sin() + places.cos()[:, None]).expand(1, 1, side, side)

    def weighed(side: int) -> float:
        settings = inceptionism_for(dataclasses.replace(taught.CONTRACT, size=(side, side)))
        inner = (wave(side) - blur(wave(side)))[..., 2:-2, 2:-2]  # no edge mirrors a wave
        return settings.smoothness * inner.square().mean().item()

    assert weighed(16) == pytest.approx(weighed(32), rel=0.15)
    assert inceptionism_for(taught.CONTRACT).smoothness == 1 / 256
    large = dataclasses.replace(taught.CONTRACT, size=(224, 64))
    assert inceptionism_for(large).smoothness == Inceptionism().smoothness == 1


def test_what_cannot_be_is_refused():
    bare = freeze(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(ValueError, match="no BatchNorm layer"):
        BatchNormStatistics().open(taught.context(4), bare, from_seed(0))
    with pytest.raises(ValueError, match="inversion needs a teacher"):
        Inceptionism().open(taught.context(4), None, from_seed(0))
    with pytest.raises(ValueError, match="smoothness must not be negative"):
        Inceptionism(smoothness=-1.0)
    with pytest.raises(ValueError, match="the loss has no term"):
        BatchNormStatistics(divergence=0.0)


def test_they_are_sources_that_optimise_images():
    for settings in (Inceptionism(), BatchNormStatistics(), COMBINED):
        assert isinstance(settings, Source)
        assert isinstance(settings, OptimisedSource)
        assert settings.optimises == "images"
