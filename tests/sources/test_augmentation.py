import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from doublure.core.protocols import Batch, Outputs, Source, Stream, StreamContext, image_batch
from doublure.core.seeding import from_seed
from doublure.sources.augmentation import (
    PUBLISHED,
    Augmentation,
    Augmented,
    augment,
)
from doublure.sources.operations import EVERY_OPERATION, RANDAUGMENT
from tests.tiny import Grey, context, rng

# Nothing but what is named, so that one thing can be looked at.
STILL = Augmentation(crop_area=(1.0, 1.0), flip=0.0, turn=0.0, num_operations=0)


def draw(num_images: int = 16, channels: int = 3, height: int = 12, width: int = 12) -> Tensor:
    return torch.rand((num_images, channels, height, width), generator=from_seed(0))


def only(operation: str, **changes: Any) -> Augmentation:
    return replace(STILL, num_operations=1, operations=(operation,), **changes)


def changed(before: Tensor, after: Tensor) -> Tensor:
    return (before - after).abs().amax((1, 2, 3)) > 1e-4


@pytest.mark.parametrize("size", [(12, 12), (7, 5), (1, 1), (33, 8)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "augmentation",
    [*PUBLISHED.values(), Augmentation(operations=EVERY_OPERATION, num_operations=30, spread=0.5)],
)
def test_images_of_any_shape_stay_in_range_and_the_input_as_it_was(augmentation, channels, size):
    images = draw(16, channels, *size)
    kept = images.clone()
    made = augment(images, augmentation, from_seed(1))
    assert made.shape == images.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert torch.equal(images, kept)


@pytest.mark.parametrize("operation", EVERY_OPERATION)
def test_an_operation_at_magnitude_zero_is_the_identity(operation):
    made = augment(draw(), only(operation, magnitude=0.0), from_seed(1))
    torch.testing.assert_close(made, draw(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("operation", sorted(set(EVERY_OPERATION) - {"identity"}))
def test_an_operation_at_full_magnitude_changes_every_image(operation):
    images = 0.2 + 0.4 * draw()
    assert changed(images, augment(images, only(operation, magnitude=10.0), from_seed(1))).all()


def test_nothing_asked_is_nothing_done_and_a_new_tensor():
    images = draw()
    made = augment(images, STILL, from_seed(1))
    assert torch.equal(made, images)
    assert made.data_ptr() != images.data_ptr()


def test_a_flip_of_all_images_is_a_mirror():
    made = augment(draw(), replace(STILL, flip=1.0), from_seed(1))
    torch.testing.assert_close(made, draw().flip(3), atol=1e-5, rtol=0)


def test_half_of_many_images_are_flipped_and_the_others_are_untouched():
    images = draw(400)
    made = augment(images, replace(STILL, flip=0.5), from_seed(1))
    flipped = changed(images, made)
    assert torch.equal(made[~flipped], images[~flipped])
    assert flipped.sum().item() == pytest.approx(200, abs=35)


def test_pad_and_crop_moves_by_whole_pixels_up_to_its_reach():
    images = draw(200)
    made = augment(images, replace(STILL, shift=2, padding="zeros"), from_seed(1))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    windows = torch.stack(
        [padded[:, :, y : y + 12, x : x + 12] for y in range(5) for x in range(5)]
    )
    distance = (windows - made).abs().amax((2, 3, 4))
    nearest, which = distance.min(0)
    assert nearest.max() < 1e-4
    assert len(which.unique()) == 25


def test_crops_enlarge():
    """On a slope the range of values is the share of the width that the crop keeps."""
    slope = torch.linspace(0, 1, 101).expand(300, 1, 101, 101)
    made = augment(slope, replace(STILL, crop_area=(0.25, 0.5), padding="border"), from_seed(1))
    width = made.amax((1, 2, 3)) - made.amin((1, 2, 3))
    # sqrt(0.25 x 3/4) to sqrt(0.5 x 4/3); the outer pixels' centres lie half a pixel inside.
    assert width.min() > 0.433 - 0.01
    assert width.max() < 0.8165 + 0.01
    assert width.std() > 0.05


def test_a_repeated_operation_adds_up_in_one_resampling():
    """Twice a rotation by 27 degrees either way: by 54 or by none, and never in between."""
    once = only("rotate", magnitude=9.0)
    point = torch.zeros(200, 1, 41, 41)
    point[..., 20, 35] = 1.0  # 15 pixels to the right
    made = augment(point, replace(once, num_operations=2), from_seed(1))
    peak = made.flatten(1).argmax(1)
    across, up = peak % 41 - 20, 20 - peak // 41
    degrees = torch.rad2deg(torch.atan2(up.float(), across.float()))
    assert set(degrees.div(54).round().tolist()) == {-1.0, 0.0, 1.0}
    assert (degrees - 54 * degrees.div(54).round()).abs().max() < 4


def test_what_happens_depends_on_the_seed_alone():
    augmentation = Augmentation(operations=EVERY_OPERATION)
    one, other = (augment(draw(), augmentation, from_seed(s)) for s in (1, 1))
    assert torch.equal(one, other)
    assert changed(one, augment(draw(), augmentation, from_seed(2))).all()


def test_an_image_does_not_feel_its_neighbours():
    augmentation = Augmentation(operations=EVERY_OPERATION)
    others = draw()
    others[1:] = torch.rand(others[1:].shape, generator=from_seed(9))
    one, other = (augment(x, augmentation, from_seed(1)) for x in (draw(), others))
    torch.testing.assert_close(one[0], other[0], atol=1e-6, rtol=0)
    assert changed(one[1:], other[1:]).any()


def test_images_of_a_batch_are_changed_differently():
    same = draw(1).expand(16, -1, -1, -1)
    made = augment(same, Augmentation(), from_seed(1))
    assert len(made.flatten(1).unique(dim=0)) == 16


def test_spread_draws_weaker_magnitudes_too():
    flat = torch.full((500, 1, 4, 4), 0.5)
    fixed = augment(flat, only("brightness", magnitude=5.0), from_seed(1))[:, 0, 0, 0]
    torch.testing.assert_close(fixed.unique(), torch.tensor([0.275, 0.725]))
    spread = augment(flat, only("brightness", magnitude=5.0, spread=1.0), from_seed(1))[:, 0, 0, 0]
    factor = (spread / 0.5 - 1).abs()
    assert factor.min() < 0.02
    assert factor.max().item() == pytest.approx(0.45, abs=0.01)
    assert factor.mean().item() == pytest.approx(0.225, abs=0.02)


def test_the_default_operations_are_randaugments_fourteen():
    assert len(RANDAUGMENT) == 14
    assert PUBLISHED["extreme"].num_operations == 4
    assert PUBLISHED["standard"].num_operations == 2


def test_stronger_presets_change_more():
    colours = draw(200, 3, 1, 1).expand(-1, -1, 32, 32)
    distances = [
        (augment(colours, PUBLISHED[name], from_seed(1)) - colours).abs().mean().item()
        for name in ("mild", "standard", "extreme")
    ]
    assert distances == sorted(distances)


def test_gradients_pass_where_the_changes_are_smooth():
    images = draw().requires_grad_()
    augmentation = Augmentation(operations=("rotate", "contrast", "sharpness"))
    augment(images, augmentation, from_seed(1)).sum().backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"crop_area": (0.5, 0.2)}, "crop_area must be two increasing positive numbers"),
        ({"crop_area": (0.5, 1.5)}, "crop_area must not exceed 1"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio must be two increasing positive numbers"),
        ({"shift": -1}, "shift must not be negative, got -1"),
        ({"magnitude": 11.0}, r"magnitude must be in \[0, 10\], got 11"),
        ({"flip": 2.0}, r"flip must lie in \[0, 1\]"),
        ({"operations": ()}, "operations is empty"),
    ],
)
def test_wrong_settings_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        Augmentation(**changes)


def open_augmented(source: Source | None = None, **changes: Any) -> Stream:
    augmented = Augmented(source=source or Grey(labels=True))
    return augmented.open(context(**changes), None, rng())


def test_labels_and_facts_pass_and_both_networks_see_the_same():
    plain = Augmented(source=Grey(labels=True), augmentation=STILL).open(context(), None, rng())
    batch, before = open_augmented().draw(3, None), plain.draw(3, None)
    assert torch.equal(batch.labels, before.labels)
    assert torch.equal(batch.metrics["brightness"], before.metrics["brightness"])
    assert batch.views["student"] is batch.views["teacher"]
    assert changed(batch.images, before.images).any()


def test_a_draw_depends_on_the_step_and_not_on_earlier_draws():
    one, other = open_augmented(), open_augmented()
    one.draw(0, None)
    assert torch.equal(one.draw(4, None).images, other.draw(4, None).images)
    assert changed(one.draw(5, None).images, other.draw(4, None).images).all()


def test_ranks_and_splits_augment_differently():
    drawn = [
        Augmented(source=Fixed()).open(where, None, rng()).draw(0, None).images
        for where in (context(), context(rank=1, world=2), context(split="held_out"))
    ]
    assert changed(drawn[0], drawn[1]).any()
    assert changed(drawn[0], drawn[2]).any()


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Always the same batch, with fields a wrapper must mind."""

    fields: tuple[tuple[str, Any], ...] = ()

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "Fixed":
        return self

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return image_batch(draw(8, 1, 8, 8), **dict(self.fields))

    def state_dict(self) -> dict[str, Any]:
        return {"loaded": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {"loaded": 1}


def test_a_stale_answer_of_the_teacher_is_dropped():
    answered = Fixed(fields=(("teacher", Outputs(output=torch.zeros(8, 3))),))
    assert open_augmented(answered).draw(0, None).teacher is None


def test_masks_and_label_maps_are_refused():
    for name, value in (("mask", torch.ones(8)), ("labels", torch.zeros(8, 8, 8).long())):
        with pytest.raises(ValueError, match="augmentation cannot transform masks"):
            open_augmented(Fixed(fields=((name, value),))).draw(0, None)


def test_the_inner_streams_state_is_kept():
    stream = open_augmented(Fixed())
    assert stream.state_dict() == {"source": {"loaded": 1}}
    stream.load_state_dict(stream.state_dict())


@dataclass(frozen=True, kw_only=True)
class TwoSizes(Fixed):
    """The student sees half of the teacher's resolution."""

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        slope = torch.linspace(0, 1, 64).expand(8, 1, 64, 64)
        half = torch.nn.functional.avg_pool2d(slope, 2)
        return dataclasses.replace(image_batch(half), views={"student": half, "teacher": slope})


def test_views_of_two_sizes_meet_the_same_changes():
    moved = Augmentation(num_operations=0, padding="border")
    stream = Augmented(source=TwoSizes(), augmentation=moved).open(context(), None, rng())
    batch = stream.draw(0, None)
    half = torch.nn.functional.avg_pool2d(batch.views["teacher"], 2)
    torch.testing.assert_close(batch.views["student"], half, atol=0.01, rtol=0)
    assert changed(batch.views["student"], TwoSizes().draw(0, None).views["student"]).all()
