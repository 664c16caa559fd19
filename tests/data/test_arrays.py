import numpy as np
import pytest
import torch

from doublure.core.protocols import InputContract
from doublure.data.arrays import ArrayImages, array_images, in_threads, open_npz


def contract(size=(4, 4), channels=3, classes=10, **fields):
    return InputContract(
        size=size,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        classes=classes,
        **fields,
    )


def pixels(count=5, size=4, channels=3):
    shape = (count, size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def opened(folder, labels=None, wanted=None, cache_bytes=2**20, **arrays):
    np.savez(folder / "data.npz", **arrays)
    return open_npz(
        folder / "data.npz", wanted or contract(), labels=labels, cache_bytes=cache_bytes
    )


def test_images_come_channels_first_and_byte_for_byte(tmp_path):
    x = pixels()
    data = opened(tmp_path, x=x, y=np.arange(5))
    assert len(data) == 5
    torch.testing.assert_close(data.images([3, 1]), torch.from_numpy(x[[3, 1]]).permute(0, 3, 1, 2))
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.notes == ()


def test_indices_may_be_a_list_a_tensor_or_an_array(tmp_path):
    data = opened(tmp_path, x=pixels())
    expected = data.images([2, 0])
    torch.testing.assert_close(data.images(torch.tensor([2, 0])), expected)
    torch.testing.assert_close(data.images(np.array([2, 0])), expected)


def test_images_handed_out_are_copies(tmp_path):
    data = opened(tmp_path, x=pixels())
    before = data.images([0]).clone()
    data.images([0]).zero_()
    torch.testing.assert_close(data.images([0]), before)


def test_floats_become_the_nearest_byte(tmp_path):
    x = np.full((1, 4, 4, 3), 127.4 / 255)
    assert (opened(tmp_path, x=x).images([0]) == 127).all()


def test_two_dimensional_images_are_grey_and_become_rgb_with_a_note(tmp_path):
    data = opened(tmp_path, x=pixels()[:, :, :, 0])
    assert data.images([0]).shape == (1, 3, 4, 4)
    assert data.notes == ("5 grey images became RGB",)


def test_what_does_not_fit_the_cache_is_fitted_batch_by_batch_to_the_same_bytes(tmp_path):
    x = pixels(size=7)
    held = opened(tmp_path, x=x)
    asked = opened(tmp_path, x=x, cache_bytes=0)
    assert held.pixels.shape == (5, 4, 4, 3)
    assert asked.pixels.shape == (5, 7, 7, 3)
    torch.testing.assert_close(asked.images(range(5)), held.images(range(5)))
    assert held.notes == asked.notes == ("5 images were scaled to 4x4",)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((2, 4, 4, 3), 255.0), r"\[0, 1\], got values from 255 to 255"),
        (np.full((2, 4, 4, 3), np.nan), "got values from nan to nan"),
        (np.full((2, 4, 4, 3), -0.1), "got values from -0.1"),
        (np.zeros((2, 4, 4, 3), dtype=np.int64), "uint8 or float in .*, got int64"),
        (np.zeros((2, 4), dtype=np.uint8), r"N x H x W x C, got shape \(2, 4\)"),
        (np.zeros((2, 3, 4, 4), dtype=np.uint8), "looks like N x C x H x W; put channels last"),
        (np.zeros((2, 4, 4, 5), dtype=np.uint8), "images have 5 channels, but the network takes 3"),
        (np.zeros((0, 4, 4, 3), dtype=np.uint8), "holds no images"),
        (np.array([{"code": "runs"}]), "cannot be read as .npz"),
    ],
)
def test_pixels_that_nobody_could_read_are_refused(tmp_path, x, message):
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, x=x)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 1, 2, 3, 10]), "labels from 0 to 10, but the network has 10 classes"),
        (np.array([-1, 1, 2, 3, 4]), "labels from -1 to 4"),
        (np.arange(4), "has 5 images but 4 labels"),
        (np.arange(5.0), "y must be N integers, got float64"),
        (np.zeros((5, 10), dtype=np.int64), r"y must be N integers, got int64 of shape \(5, 10\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, y, message):
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, x=pixels(), y=y)


def test_labels_can_be_demanded_or_left(tmp_path):
    with pytest.raises(ValueError, match="has no array 'y'"):
        opened(tmp_path, labels=True, x=pixels())
    assert opened(tmp_path, labels=False, x=pixels(), y=np.full(5, 99)).labels is None


def test_a_file_without_x_or_no_npz_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no array 'x'"):
        opened(tmp_path, images=pixels())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut.npz cannot be read as .npz"):
        open_npz(tmp_path / "cut.npz", contract(), labels=None, cache_bytes=0)


def test_the_digest_follows_the_content(tmp_path):
    x = pixels()
    first = opened(tmp_path, x=x).digest
    assert opened(tmp_path, x=x).digest == first
    x[0, 0, 0, 0] ^= 1
    assert opened(tmp_path, x=x).digest != first


def test_class_names_are_the_networks_own():
    names = tuple("abcdefghij")
    data = array_images(
        pixels(),
        contract(names=names),
        labels=None,
        names=None,
        digest="",
        where="here",
        cache_bytes=0,
    )
    assert isinstance(data, ArrayImages)
    assert data.names == names


def test_threads_keep_the_order():
    assert in_threads(lambda item: item * item, range(1000)) == [i * i for i in range(1000)]
