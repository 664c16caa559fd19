import math

import pytest
import torch
from torch import Tensor, nn

from doublure.nets.boundary import (
    BoundaryAttack,
    BoundaryImages,
    bold_driver,
    boundary_attack,
    boundary_distance,
    predicted_classes,
)

SHAPE = (1, 3, 3)


class Linear(nn.Module):
    """Logits of a linear classifier; remembers the images it was shown."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[Tensor] = []
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return images.flatten(1) @ self.weight.T.to(images.dtype) + self.bias.to(images.dtype)


def linear(classes: int = 2, seed: int = 0, scale: float = 1.0) -> Linear:
    """A linear teacher whose boundaries all meet in the middle of the image cube."""
    rng = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(classes, math.prod(SHAPE), generator=rng, dtype=torch.float64)
    return Linear(weight, -weight.sum(1) / 2)


def draw(count: int, spread: float, seed: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    noise = torch.rand((count, *SHAPE), generator=rng, dtype=torch.float64) - 0.5
    return 0.5 + spread * noise


def margins(teacher: Linear, images: Tensor) -> Tensor:
    """Signed distance of each image to a two-class linear teacher's boundary."""
    weight, bias = teacher.weight.diff(dim=0).squeeze(0), teacher.bias.diff()
    return ((images.flatten(1) @ weight + bias) / weight.norm()).detach()


def others(teacher: nn.Module, images: Tensor, classes: int = 2) -> Tensor:
    return (predicted_classes(teacher, images) + 1) % classes


def attack(teacher: nn.Module, images: Tensor, targets: Tensor, **changes: float) -> BoundaryImages:
    numbers = {"step_size": 0.05, "num_steps": 30, "grow": 1.1, "shrink": 0.5, "bisections": 0}
    return boundary_attack(teacher, images, targets, **(numbers | changes))


def lengths(images: Tensor) -> Tensor:
    return images.flatten(1).norm(dim=1)


def test_pre_lies_before_the_boundary_and_post_behind_it():
    teacher, images = linear(classes=5), draw(40, spread=0.6)
    targets = others(teacher, images, 5)
    found = attack(teacher, images, targets)
    assert found.success.sum() > 30
    hit = found.success
    assert (predicted_classes(teacher, found.pre[hit]) != targets[hit]).all()
    assert (predicted_classes(teacher, found.post[hit]) == targets[hit]).all()
    gap = lengths(found.post - found.pre)
    assert (gap[hit] <= found.last_step[hit] + 1e-12).all()


def test_every_image_stays_between_zero_and_one():
    teacher, images = linear(classes=5), draw(40, spread=1.0)
    found = attack(teacher, images, others(teacher, images, 5), step_size=0.5)
    for kind in (found.pre, found.post, found.deep_pre, found.deep_post):
        assert kind.min() >= 0
        assert kind.max() <= 1


def test_the_way_to_a_linear_boundary_is_its_distance():
    teacher, images = linear(), draw(20, spread=0.3)
    found = attack(teacher, images, others(teacher, images))
    assert found.success.all()
    distance, way = margins(teacher, images).abs(), lengths(found.post - images)
    assert (distance <= way + 1e-9).all()
    assert (way <= distance + lengths(found.post - found.pre) + 1e-9).all()


def test_bisection_ends_on_the_boundary():
    teacher, images = linear(), draw(20, spread=0.3)
    coarse = attack(teacher, images, others(teacher, images))
    fine = attack(teacher, images, others(teacher, images), bisections=8)
    torch.testing.assert_close(
        lengths(fine.post - fine.pre), lengths(coarse.post - coarse.pre) / 2**8
    )
    assert margins(teacher, fine.pre).abs().max() < 1e-3
    assert (margins(teacher, fine.pre) * margins(teacher, fine.post) <= 0).all()


def test_deep_images_are_one_step_further_from_a_linear_boundary():
    teacher, images = linear(), draw(20, spread=0.2)
    found = attack(teacher, images, others(teacher, images), step_size=0.03)
    for shallow, deep in ((found.pre, found.deep_pre), (found.post, found.deep_post)):
        gain = margins(teacher, deep).abs() - margins(teacher, shallow).abs()
        torch.testing.assert_close(gain, torch.full_like(gain, 0.03))


def test_a_third_class_on_the_way_is_deepened_as_itself():
    # Classes along one axis, cut at .4 and .6: the way from 0 to 2 leads through 1.
    axis = torch.zeros(3, math.prod(SHAPE), dtype=torch.float64)
    axis[:, 0] = torch.tensor([-10.0, 0.0, 10.0])
    teacher = Linear(axis, torch.tensor([4.0, 0.0, -6.0], dtype=torch.float64))
    image = torch.full((1, *SHAPE), 0.2, dtype=torch.float64)
    found = attack(teacher, image, torch.tensor([2]))
    assert predicted_classes(teacher, found.pre).item() == 1
    logits, deeper = teacher(found.pre), teacher(found.deep_pre)
    assert deeper.softmax(-1)[0, 1] > logits.softmax(-1)[0, 1]


def test_the_bold_driver_grows_on_success_and_shrinks_on_failure():
    loss, trial = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 1.5, 1.0])
    accepted, step = bold_driver(loss, trial, torch.tensor([2.0, 2.0, 2.0]), 1.1, 0.5)
    assert accepted.tolist() == [True, False, False]
    torch.testing.assert_close(step, torch.tensor([2.2, 1.0, 1.0]))


def test_accepted_losses_fall_and_a_rejected_step_is_halved_exactly():
    # The middle class is a ridge: a long step overshoots it, and must be undone and halved.
    axis = torch.zeros(3, math.prod(SHAPE), dtype=torch.float64)
    axis[:, 0] = torch.tensor([-40.0, 0.0, 40.0])
    teacher = Linear(axis, torch.tensor([20.0, 0.15, -20.0], dtype=torch.float64))
    image = torch.full((1, *SHAPE), 0.1, dtype=torch.float64)
    target = torch.tensor([1])
    found = attack(teacher, image, target, step_size=0.79)
    assert found.success.all()
    trials = teacher.seen[: (found.num_passes - 4) // 2]
    losses = [nn.functional.cross_entropy(teacher(x), target).item() for x in trials]
    at, kept, step, rejected = trials[0], losses[0], 0.79, 0
    for trial, loss in zip(trials[1:], losses[1:], strict=True):
        assert (trial - at).norm().item() == pytest.approx(step, abs=1e-9)
        if loss < kept:
            at, kept, step = trial, loss, 1.1 * step
        else:
            step, rejected = 0.5 * step, rejected + 1
    assert rejected > 1


def test_an_attack_that_fails_is_flagged_and_gives_the_image_back():
    teacher, images = linear(), draw(10, spread=0.6)
    found = attack(teacher, images, others(teacher, images), step_size=1e-6, num_steps=2)
    assert not found.success.any()
    for kind in (found.pre, found.post, found.deep_pre, found.deep_post):
        torch.testing.assert_close(kind, images)


def test_an_image_already_in_its_target_class_counts_as_a_failure():
    teacher, images = linear(), draw(4, spread=0.6)
    found = attack(teacher, images, predicted_classes(teacher, images))
    assert not found.success.any()
    assert found.num_passes == 2 * 4


def test_each_image_is_attacked_as_if_it_were_alone():
    teacher, images = linear(classes=5), draw(12, spread=0.6)
    targets = others(teacher, images, 5)
    together = attack(teacher, images, targets)
    for i in range(len(images)):
        alone = attack(teacher, images[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(alone.post[0], together.post[i])
        torch.testing.assert_close(alone.deep_pre[0], together.deep_pre[i])


def test_finished_images_are_not_asked_about_again():
    teacher, images = linear(), draw(20, spread=0.3)
    found = attack(teacher, images, others(teacher, images))
    shown = sum(len(x) for x in teacher.seen[1:])  # the first call chose the targets
    assert found.num_passes == 2 * shown
    sizes = [len(x) for x in teacher.seen[1:-1]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_teacher_and_images_are_left_as_they_were():
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    teacher = nn.Sequential(teacher, nn.Linear(4, 3)).eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    images = draw(6, spread=1.0).float()
    copy = images.clone()
    attack(teacher, images, others(teacher, images, 3))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert torch.equal(images, copy)
    assert not images.requires_grad


def test_the_attack_is_float32_under_autocast_and_without_gradients():
    teacher = linear(classes=5, scale=5.0).float()
    images = draw(8, spread=0.6).float()
    targets = others(teacher, images, 5)
    plain = attack(teacher, images, targets)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wrapped = attack(teacher, images, targets)
    assert wrapped.post.dtype == torch.float32
    torch.testing.assert_close(wrapped.post, plain.post, rtol=0, atol=0)


def test_half_precision_images_are_attacked_in_float32():
    teacher, images = linear().float(), draw(4, spread=0.3).bfloat16()
    assert attack(teacher, images, others(teacher, images.float())).post.dtype == torch.float32


def test_a_training_teacher_is_refused():
    with pytest.raises(ValueError, match=r"evaluation mode; use nets.network.freeze"):
        attack(linear().train(), draw(2, spread=0.3), torch.tensor([0, 1]))


def test_a_teacher_without_logits_is_refused():
    with pytest.raises(ValueError, match=r"logits \[batch, classes\], got \(2, 1, 3, 3\)"):
        attack(nn.Identity().eval(), draw(2, spread=0.3), torch.tensor([0, 1]))


def test_the_distance_is_that_to_the_runner_up():
    teacher, images = linear(), draw(30, spread=0.3)
    found = boundary_distance(teacher, images, BoundaryAttack(bisections=12))
    assert found.success == 1.0
    torch.testing.assert_close(found.distances, margins(teacher, images).abs(), atol=1e-4, rtol=0)
    assert found.median == pytest.approx(found.distances.median().item())


def test_distances_that_were_not_reached_are_infinite_and_lower_the_success():
    teacher, images = linear(), draw(30, spread=0.6)
    found = boundary_distance(teacher, images, BoundaryAttack(num_steps=1))
    assert 0 < found.success < 1
    assert found.distances.isinf().sum() == round(30 * (1 - found.success))
    assert math.isfinite(found.median)
    none = boundary_distance(teacher, images, BoundaryAttack(num_steps=1, step_size=1e-9))
    assert none.success == 0
    assert math.isnan(none.median)


def test_one_class_has_no_boundary():
    with pytest.raises(ValueError, match="two classes, but the teacher has 1"):
        boundary_distance(linear(classes=1), draw(2, spread=0.3), BoundaryAttack())


def test_the_first_step_changes_each_value_as_much_at_any_size():
    settings = BoundaryAttack()
    assert settings.step_for(torch.zeros(2, 3, 32, 32)) == 0.5
    assert settings.step_for(torch.zeros(2, 3, 64, 64)) == 1.0
    assert settings.step_for(torch.zeros(2, 1, 8, 8)) == pytest.approx(0.5 / math.sqrt(48))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": 0}, "step_size must be positive, got 0"),
        ({"num_steps": 0}, "num_steps must be positive, got 0"),
        ({"grow": 0.9}, "grow must be at least 1, got 0.9"),
        ({"shrink": 1.0}, "shrink must be between 0 and 1, got 1.0"),
        ({"bisections": -1}, "bisections must not be negative, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BoundaryAttack(**change)
