import numpy as np
import pytest
import torch
from PIL import Image

from doublure.core.protocols import InputContract
from doublure.data.arrays import ArrayImages
from doublure.data.image_folder import FolderImages, UnreadableImagesError, open_image_folder


def contract(size=(8, 8), channels=3, **fields):
    return InputContract(
        size=size,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        classes=2,
        **fields,
    )


def opened(folder, wanted=None, labels=None, skip_bad=False, cache_bytes=2**20):
    return open_image_folder(
        folder, wanted or contract(), labels=labels, skip_bad=skip_bad, cache_bytes=cache_bytes
    )


@pytest.fixture
def folder(tmp_path):
    """Two classes of six images each; the last of class b is grey."""
    draw = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(6):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    Image.new("L", (8, 8), 100).save(tmp_path / "b" / "5.png")
    return tmp_path


def spoil(folder):
    """A file cut short, one that is no image, and an empty one."""
    noisy = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noisy).save(folder / "a" / "cut.jpg")
    whole = (folder / "a" / "cut.jpg").read_bytes()
    (folder / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "a" / "text.png").write_text("no image")
    (folder / "b" / "empty.png").touch()
    return {"cut.jpg", "text.png", "empty.png"}


def test_images_are_the_files_pixels_in_sorted_order(folder):
    data = opened(folder)
    assert len(data) == 12
    with Image.open(folder / "a" / "3.png") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    torch.testing.assert_close(data.images([3])[0], expected)
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    assert data.names == ("a", "b")


def test_grey_images_are_counted_when_they_become_rgb(folder):
    data = opened(folder)
    assert "1 grey images became RGB" in data.notes
    assert (data.images([11]) == 100).all()


def test_colour_images_are_counted_when_they_become_grey(folder):
    data = opened(folder, contract(channels=1))
    assert "11 colour images became grey by luminance" in data.notes
    assert data.images([0]).shape == (1, 1, 8, 8)


def test_a_set_too_large_for_the_cache_is_decoded_when_asked_to_the_same_bytes(folder):
    held, asked = opened(folder), opened(folder, cache_bytes=0)
    assert isinstance(held, ArrayImages)
    assert isinstance(asked, FolderImages)
    torch.testing.assert_close(asked.images(range(12)), held.images(range(12)))
    assert (asked.notes, asked.digest) == (held.notes, held.digest)


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_every_unreadable_file_is_named_at_once(folder, cache_bytes):
    bad = spoil(folder)
    with pytest.raises(
        UnreadableImagesError, match=r"3 of 15 images in .* cannot be read"
    ) as raised:
        opened(folder, cache_bytes=cache_bytes)
    assert {path.name for path in raised.value.reasons} == bad
    assert all(name in str(raised.value) for name in bad)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_unreadable_files_can_be_left_out_and_are_counted(folder, cache_bytes):
    before = opened(folder)
    spoil(folder)
    data = opened(folder, skip_bad=True, cache_bytes=cache_bytes)
    assert "3 unreadable images were skipped" in data.notes
    assert data.labels.tolist() == before.labels.tolist()
    assert data.digest == before.digest
    torch.testing.assert_close(data.images(range(12)), before.images(range(12)))


def test_a_folder_of_nothing_but_damage_is_refused(tmp_path):
    (tmp_path / "1.png").touch()
    with pytest.raises(ValueError, match="none of the 1 images"):
        opened(tmp_path, skip_bad=True)


def test_a_file_that_breaks_later_is_named_then(folder):
    data = opened(folder, cache_bytes=0)
    (folder / "a" / "0.png").write_text("gone")
    with pytest.raises(UnreadableImagesError, match=r"0\.png"):
        data.images([0, 1])


def test_images_of_another_size_are_scaled_and_counted(folder):
    data = opened(folder, contract(size=(4, 4)))
    assert data.images([0]).shape == (1, 3, 4, 4)
    assert "12 images were scaled to 4x4" in data.notes


def test_other_files_are_told(folder):
    (folder / "a" / "readme.txt").touch()
    assert "1 files that are not images were skipped" in opened(folder).notes


def test_without_labels_every_image_is_taken(folder):
    data = opened(folder, labels=False)
    assert data.labels is None
    assert len(data) == 12


def test_a_network_of_four_channels_is_refused(folder):
    with pytest.raises(ValueError, match="images have 3 channels, but the network takes 4"):
        opened(folder, contract(channels=4))
