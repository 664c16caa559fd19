import pytest
import torch
from torch import Tensor

from doublure.core.protocols import InputContract
from doublure.core.seeding import from_seed
from doublure.sources.image_optimisation import ImageOptimisation, Keep, Optimised, roll
from tests import tiny

TARGET = torch.linspace(-0.8, 0.8, 64).view(1, 1, 8, 8)


def settings(**changes) -> ImageOptimisation:
    return ImageOptimisation(**({"iterations": 60, "learning_rate": 0.1, "jitter": 0} | changes))


def to_target(images: Tensor, normalised: Tensor) -> Tensor:
    return (normalised - TARGET).square().mean()


def search(loss=to_target, contract: InputContract = tiny.CONTRACT, seed=0, **changes) -> Optimised:
    return settings(**changes)(loss, 4, contract, from_seed(seed))


def test_images_move_around_the_edges_and_may_be_mirrored():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    expected = [[8.0, 6, 7], [2, 0, 1], [5, 3, 4]]
    assert roll(image, (1, 1), mirrored=False)[0, 0].tolist() == expected
    assert roll(image, (1, 1), mirrored=True)[0, 0].tolist() == [row[::-1] for row in expected]
    assert torch.equal(roll(image, (0, 0), mirrored=False), image)


def test_what_the_loss_asks_for_is_found_and_handed_out_in_units_of_an_image():
    found = search(iterations=200)
    assert found.loss < 1e-3
    torch.testing.assert_close(
        found.images, (TARGET / 2 + 0.5).expand(4, -1, -1, -1), atol=0.03, rtol=0
    )
    assert found.iterations == 200
    assert found.image_passes == 800


def test_the_best_iterate_is_kept_and_paired_with_its_own_loss():
    seen = []

    def loss(images: Tensor, normalised: Tensor) -> Tensor:
        value = to_target(images, normalised) * (1 if len(seen) < 30 else 100)  # worse from then on
        seen.append((value.item(), normalised.detach().clone()))
        return value

    found = search(loss, learning_rate=0.02)
    smallest, best = min(seen, key=lambda pair: pair[0])
    assert smallest != seen[-1][0]
    assert found.loss.item() == smallest
    assert torch.equal(found.images, (best * 0.5 + 0.5).clamp(0, 1))


def test_the_first_step_of_adam_goes_by_the_learning_rate_against_the_gradient():
    seen = []

    def loss(images: Tensor, normalised: Tensor) -> Tensor:
        seen.append(normalised.detach().clone())
        return normalised.sum() * 3

    search(loss, iterations=2, learning_rate=0.25)
    torch.testing.assert_close(seen[1], seen[0] - 0.25)


def test_images_are_kept_on_the_way_and_what_is_found_stays_the_same():
    def to_middle(images: Tensor, normalised: Tensor) -> Tensor:
        return images.sub(0.3).square().mean()

    stages = settings(iterations=20, coarse_iterations=8)
    plain = stages(to_middle, 4, tiny.CONTRACT, from_seed(0))
    keep = Keep(at=(0, 4, 8, 27, 28, 99), images=3)
    kept = stages(to_middle, 4, tiny.CONTRACT, from_seed(0), keep)
    assert torch.equal(kept.images, plain.images)
    assert list(kept.path) == [0, 4, 8, 27]  # of 28: what is left after the last is what is found
    assert all(images.shape == (3, 1, 8, 8) for images in kept.path.values())
    start = kept.path[0]  # enlarged from 4 x 4
    assert torch.equal(start[..., ::2, ::2], start[..., 1::2, 1::2])
    apart = [images.sub(0.3).abs().mean() for images in kept.path.values()]
    assert apart == sorted(apart, reverse=True)
    assert plain.path == {}


def test_clamped_iterates_are_images_at_every_step():
    def loss(images: Tensor, normalised: Tensor) -> Tensor:
        seen.append(images.detach().aminmax())
        return images.sum()

    seen = []
    search(loss, clamp=True)
    assert all(low >= -1e-6 and high <= 1 + 1e-6 for low, high in seen[1:])
    seen = []
    search(loss, clamp=False)
    assert seen[-1][0] < -1


def test_the_loss_sees_the_images_moved_and_as_they_are():
    def loss(images: Tensor, normalised: Tensor) -> Tensor:
        as_it_is = normalised * 0.5 + 0.5
        apart.append((images - as_it_is).abs().max().item() > 1e-6)
        torch.testing.assert_close(images.sort(-1)[0].sum(), as_it_is.sort(-1)[0].sum())
        return normalised.square().sum()

    apart: list[bool] = []
    search(loss, jitter=2)
    assert 0.8 < sum(apart) / len(apart) < 1  # one of 25 shifts is none
    apart = []
    search(loss, flip=0.5)
    assert 0.3 < sum(apart) / len(apart) < 0.7


def test_a_coarse_stage_hands_enlarged_images_to_the_fine_one():
    sizes, firsts = [], {}

    def loss(images: Tensor, normalised: Tensor) -> Tensor:
        side = images.shape[-1]
        sizes.append(side)
        firsts.setdefault(side, normalised.detach().clone())
        return normalised.square().mean()

    found = search(loss, coarse_iterations=40)
    assert sizes == [4] * 40 + [8] * 60
    fine = firsts[8]
    torch.testing.assert_close(
        fine, fine[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
    )
    assert fine.square().mean() < firsts[4].square().mean() / 4
    assert found.iterations == 100
    assert found.image_passes == 4 * (60 + 40 / 4)
    assert settings(coarse_iterations=40).passes_per_image == 70


def test_a_search_stops_on_a_plateau_and_only_there():
    flat = search(lambda images, x: 0 * x.sum() + 1.0, patience=10)
    assert flat.iterations == 20
    assert search(patience=10, iterations=30).iterations == 30


def test_the_cosine_rate_rises_falls_and_ends_at_nothing():
    cosine = settings(schedule="cosine", warmup=10, learning_rate=2.0)
    rates = [cosine.rate_at(i, 110) for i in range(110)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[-1] < 0.001
    assert settings().rate_at(3, 60) == 0.1


def test_the_same_seed_finds_the_same_bits_and_another_seed_others():
    assert torch.equal(search(jitter=2).images, search(jitter=2).images)
    assert not torch.equal(search(seed=1).images, search().images)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"is not finite; lower its learning_rate"):
        search(lambda images, x: (x * torch.nan).sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "iterations must be positive, got 0"),
        ({"jitter": -1}, "jitter must not be negative"),
        ({"coarse_factor": 1}, "coarse_factor must be at least 2"),
        ({"flip": 2.0}, r"flip must lie in \[0, 1\]"),
        ({"patience": 0}, "patience must be positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)
