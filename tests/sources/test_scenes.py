from dataclasses import replace

import numpy as np
import pytest
import torch

from doublure.core.protocols import InputContract
from doublure.data.scenes import IGNORED
from doublure.sources.scenes import Scenes, draw_windows, nearest_labels, sampling_grid
from tests import tiny
from tests.scenes import SIZE, draw_scene, write_scene, write_scenes

CONTRACT = InputContract(
    size=SIZE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=3, output="map"
)


def drawn_scenes(folder):
    return Scenes(data=str(write_scenes(folder, 80, size=(8, 8))))


EXAMPLES = (drawn_scenes,)


def opened(folder, **settings):
    source = Scenes(data=str(folder), **({"held_out": 0.0, "labels": True} | settings))
    context = replace(tiny.context(batch_size=4, steps=4), contract=CONTRACT)
    return source.open(context, None, tiny.rng())


def test_whole_images_unscaled_and_not_mirrored_are_the_files(tmp_path):
    write_scenes(tmp_path, 6)
    batch = opened(tmp_path, flip=0.0).draw(0, None)
    for image, labels, place in zip(batch.images, batch.labels, batch.index.tolist(), strict=True):
        pixels, classes = draw_scene(place)
        torch.testing.assert_close(
            image, torch.from_numpy(pixels).permute(2, 0, 1) / 255, atol=1e-5, rtol=0
        )
        assert torch.equal(labels, torch.from_numpy(classes).long())
    assert bool(batch.mask.all())


def test_mirrored_images_have_mirrored_labels(tmp_path):
    write_scenes(tmp_path, 4)
    straight, mirrored = (opened(tmp_path, flip=flip).draw(0, None) for flip in (0.0, 1.0))
    torch.testing.assert_close(mirrored.images, straight.images.flip(3), atol=1e-5, rtol=0)
    assert torch.equal(mirrored.labels, straight.labels.flip(2))


def test_a_window_that_is_not_scaled_is_a_copy_of_a_part(tmp_path):
    write_scenes(tmp_path, 4)
    batch = opened(tmp_path, size=(16, 16), flip=0.0).draw(0, None)
    for image, place in zip(batch.images, batch.index.tolist(), strict=True):
        whole = torch.from_numpy(draw_scene(place)[0]).permute(2, 0, 1) / 255
        parts = whole.unfold(1, 16, 1).unfold(2, 16, 1)  # channels, rows, columns, 16, 16
        apart = (parts.permute(1, 2, 0, 3, 4) - image).abs().amax((2, 3, 4))
        assert apart.min() < 1e-5


def test_labels_stay_on_top_of_their_images(tmp_path):
    """The red of a pixel tells the box, however it was scaled, except at its edge."""
    write_scenes(tmp_path, 8)
    batch = opened(tmp_path, size=(24, 24), scale=(1.0, 2.0)).draw(1, None)
    red = (batch.images[:, 0] > 0.65) & (batch.images[:, 1] < 0.35)
    assert ((batch.labels == 2) == red).float().mean() > 0.97


def test_windows_lie_inside_of_their_images():
    windows = draw_windows(500, (32, 48), (16, 24), (0.1, 3.0), 0.5, tiny.rng())
    for start, length, side in (
        (windows.top, windows.height, 32),
        (windows.left, windows.width, 48),
    ):
        assert start.min() >= 0
        assert (start + length).max() <= side + 1e-3
    assert 0.4 < windows.mirrored.float().mean() < 0.6


def test_labels_up_to_255_survive_sampling():
    labels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    windows = draw_windows(1, (16, 16), (16, 16), (1.0, 1.0), 0.0, tiny.rng())
    assert torch.equal(nearest_labels(labels, sampling_grid(windows, (16, 16), (16, 16))), labels)


def test_pixels_that_do_not_count_are_masked(tmp_path):
    pixels, classes = draw_scene(0)
    classes[:5] = IGNORED
    write_scene(tmp_path, "a", pixels, classes)
    batch = opened(tmp_path, flip=0.0).draw(0, None)
    assert not batch.mask[:, :5].any()
    assert bool(batch.mask[:, 5:].all())


def test_held_out_images_are_others(tmp_path):
    write_scenes(tmp_path, 80)
    source = Scenes(data=str(tmp_path), held_out=0.5)
    seen = []
    for split in ("train", "held_out"):
        context = replace(tiny.context(steps=5, split=split), contract=CONTRACT)
        stream = source.open(context, None, tiny.rng())
        seen.append(
            {place for step in range(5) for place in stream.draw(step, None).index.tolist()}
        )
    assert len(seen[0]) == len(seen[1]) == 40
    assert not seen[0] & seen[1]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scale": (2.0, 1.0)}, "scale must be two positive factors in order"),
        ({"flip": 1.5}, r"flip must lie in \[0, 1\]"),
        ({"held_out": 1.0}, "held_out must lie in"),
    ],
)
def test_settings_out_of_range_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        Scenes(data="scenes", **settings)


def test_whatever_the_seed_pixels_stay_in_0_1(tmp_path):
    write_scene(tmp_path, "white", np.full((*SIZE, 3), 255, np.uint8), np.zeros(SIZE, np.uint8))
    images = opened(tmp_path, size=(16, 16), scale=(0.8, 1.3)).draw(2, None).images
    assert images.max() <= 1
    assert images.min() > 0.99
