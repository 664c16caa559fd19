import pytest
import torch

from doublure.sources import recolouring
from doublure.sources.autoaugment import CIFAR10, apply_policy, strength
from doublure.sources.operations import EVERY_OPERATION

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def always(operation: str, level: int):
    return (((operation, 1.0, level), ("invert", 0.0, 0)),)


def test_the_policy_has_25_pairs_of_known_operations():
    assert len(CIFAR10) == 25
    for pair in CIFAR10:
        assert len(pair) == 2
        for name, probability, level in pair:
            assert name in EVERY_OPERATION
            assert 0 <= probability <= 1
            assert level in range(10)


@pytest.mark.parametrize(
    ("operation", "level", "sign", "value"),
    [
        ("rotate", 9.0, -1.0, -0.9),
        ("translate_x", 3.0, 1.0, 0.3),
        ("contrast", 0.0, 1.0, -1.0),  # factor 0.1
        ("brightness", 5.0, 1.0, 0.0),  # factor 1
        ("saturation", 9.0, -1.0, 0.8),  # factor 1.72: no sign is drawn
        ("posterize", 7.0, -1.0, 0.7),
        ("invert", 3.0, 1.0, 1.0),
    ],
)
def test_levels_by_hand(operation, level, sign, value):
    found = strength(operation, torch.tensor([level]), torch.tensor([sign]))
    assert found.item() == pytest.approx(value)


@pytest.mark.parametrize(
    ("operation", "level", "expected"),
    [
        ("invert", 0, lambda x: 1 - x),
        ("equalize", 0, recolouring.equalize),
        ("autocontrast", 3, recolouring.autocontrast),
        ("brightness", 5, lambda x: x),
        ("brightness", 9, lambda x: (1.72 * x).clamp(0, 1)),
        ("posterize", 7, lambda x: recolouring.posterize(x, torch.full((6,), 5))),
        ("solarize", 5, lambda x: recolouring.solarize(x, torch.full((6,), 0.5 * 256 / 255))),
        ("sharpness", 0, lambda x: recolouring.sharpen(x, torch.full((6,), -0.9))),
    ],
)
def test_one_operation_alone_is_itself(operation, level, expected):
    kept = IMAGES.clone()
    made = apply_policy(IMAGES, always(operation, level), 0.0, rng())
    torch.testing.assert_close(made, expected(kept), atol=1e-6, rtol=0)
    assert torch.equal(IMAGES, kept)


def test_two_operations_follow_each_other():
    both = ((("invert", 1.0, 0), ("solarize", 1.0, 5)),)
    expected = recolouring.solarize(1 - IMAGES, torch.full((6,), 0.5 * 256 / 255))
    torch.testing.assert_close(apply_policy(IMAGES, both, 0.0, rng()), expected)
    other = ((("solarize", 1.0, 5), ("invert", 1.0, 0)),)
    assert not torch.allclose(apply_policy(IMAGES, other, 0.0, rng()), expected)


def test_without_probability_nothing_happens_and_a_hole_is_cut_in_every_image():
    never = ((("invert", 0.0, 0), ("equalize", 0.0, 0)),)
    assert torch.equal(apply_policy(IMAGES, never, 0.0, rng()), IMAGES)
    made = apply_policy(IMAGES, never, 0.5, rng())
    assert (made == 0.5).flatten(1).any(1).all()


def test_each_pair_and_each_coin_come_up_as_often_as_they_should():
    images = torch.full((4000, 1, 2, 2), 0.25)
    policy = ((("invert", 0.3, 0), ("invert", 0.0, 0)), (("solarize", 0.0, 0),) * 2)
    share = (apply_policy(images, policy, 0.0, rng())[:, 0, 0, 0] == 0.75).float().mean().item()
    assert share == pytest.approx(0.15, abs=0.02)


def test_the_cifar_policy_stays_in_range_and_depends_on_the_seed_alone():
    one = apply_policy(IMAGES, CIFAR10, 0.5, rng(1))
    assert one.min() >= 0
    assert one.max() <= 1
    assert torch.equal(apply_policy(IMAGES, CIFAR10, 0.5, rng(1)), one)
    assert not torch.equal(apply_policy(IMAGES, CIFAR10, 0.5, rng(2)), one)
