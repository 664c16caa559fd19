import torch

from doublure.sources.views import shift_and_flip
from tests.tiny import rng


def test_images_are_moved_and_mirrored_one_by_one():
    images = torch.rand(40, 2, 5, 7, generator=rng())
    offsets = torch.randint(-3, 4, (2, 40), generator=rng(1))
    flips = (torch.rand(40, generator=rng(2)) < 0.5).float()
    made = shift_and_flip(images, offsets, flips)
    for i in range(40):
        expected = moved(images[i], offsets[0, i].item(), offsets[1, i].item())
        assert torch.equal(made[i], expected.flip(-1) if flips[i] else expected)


def moved(image, down, right):
    shifted = torch.zeros_like(image)
    height, width = image.shape[1:]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                shifted[:, row, column] = image[:, row - down, column - right]
    return shifted


def test_without_offsets_and_flips_nothing_changes_and_gradients_pass():
    images = torch.rand(4, 1, 6, 6, generator=rng(), requires_grad=True)
    made = shift_and_flip(images, torch.zeros(2, 4, dtype=torch.int64), torch.zeros(4))
    assert torch.equal(made, images)
    gradient = torch.autograd.grad(made.sum(), images)[0]
    assert torch.equal(gradient, torch.ones_like(images))
