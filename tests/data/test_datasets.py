from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from doublure.core.protocols import InputContract
from doublure.data.datasets import Dataset, batches, open_data
from doublure.data.image_set import ImageSetWriter

CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,), classes=10)


def draw_set(folder: Path, labels: bool = True) -> Path:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 1, 8, 8), generator=rng, dtype=torch.uint8)
    writer = ImageSetWriter(folder, 6, (8, 8), 1, labels, source="noise", settings={}, seed=0)
    writer.append(images, torch.arange(6) if labels else None)
    writer.finish()
    return folder


def test_whatever_it_is_it_is_a_dataset(tmp_path):
    np.savez(tmp_path / "some.npz", x=np.zeros((2, 8, 8), dtype=np.uint8))
    (tmp_path / "flat").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "flat" / "1.png")
    found = [
        open_data("builtin/digits", CONTRACT),
        open_data(tmp_path / "some.npz", CONTRACT),
        open_data(str(tmp_path / "flat"), CONTRACT),
        open_data(tmp_path / "flat", CONTRACT, cache_bytes=0),
        open_data(draw_set(tmp_path / "set"), CONTRACT),
    ]
    for data in found:
        assert isinstance(data, Dataset)
        images = data.images(range(len(data)))
        assert images.dtype == torch.uint8
        assert images.shape == (len(data), 1, 8, 8)


def test_digits_follow_the_split_or_their_own_suffix():
    sizes = [
        len(open_data(spec, CONTRACT, split=split))
        for spec, split in (
            ("builtin/digits", "train"),
            ("builtin/digits", "test"),
            ("builtin/digits:train", "test"),
            ("builtin/digits:test", "train"),
            ("builtin/digits:all", "train"),
        )
    ]
    assert sizes == [1297, 500, 1297, 500, 1797]


def test_a_divided_folder_follows_the_split(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        (tmp_path / part / "a").mkdir(parents=True)
        for index in range(count):
            Image.new("L", (8, 8)).save(tmp_path / part / "a" / f"{index}.png")
    assert len(open_data(tmp_path, CONTRACT)) == 3
    assert len(open_data(tmp_path, CONTRACT, split="test")) == 2


def test_a_set_is_read_with_its_labels_unless_they_are_left(tmp_path):
    folder = draw_set(tmp_path / "set")
    assert open_data(folder, CONTRACT).labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert open_data(folder, CONTRACT, labels=False).labels is None


def test_labels_demanded_of_a_set_without_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no labels\.npy"):
        open_data(draw_set(tmp_path / "set", labels=False), CONTRACT, labels=True)


def test_an_unfinished_set_is_not_taken_for_an_empty_folder(tmp_path):
    ImageSetWriter(tmp_path, 6, (8, 8), 1, False, source="noise", settings={}, seed=0)
    with pytest.raises(ValueError, match="unfinished: 0 of 6 images"):
        open_data(tmp_path, CONTRACT)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin/digit", "did you mean 'digits'"),
        ("builtin/digits:tset", "did you mean 'test'"),
        ("nowhere/at/all", "there is no 'nowhere/at/all'; data are"),
        (__file__, r"neither a folder nor a \.npz"),
    ],
)
def test_what_is_no_data_is_refused_with_the_way_out(spec, message):
    with pytest.raises(ValueError, match=message):
        open_data(spec, CONTRACT)


def test_positions_in_a_set_mean_what_they_mean_to_an_array(tmp_path):
    data = open_data(draw_set(tmp_path / "set"), CONTRACT)
    torch.testing.assert_close(data.images([-1, 0]), data.images([5, 0]))
    with pytest.raises(IndexError):
        data.images([6])


def test_reading_a_set_does_not_keep_it_in_memory(tmp_path):
    count, size = 2000, (64, 64)
    contract = InputContract(size=size, channels=1, mean=(0.5,), std=(0.5,), classes=10)
    pen = ImageSetWriter(tmp_path, count, size, 1, False, source="noise", settings={}, seed=0)
    pen.append(torch.zeros(count, 1, *size, dtype=torch.uint8))
    pen.finish().verify()
    data = open_data(tmp_path, contract)
    assert sum(len(images) for images, _ in batches(data, 100)) == count
    mapped = Path("/proc/self/smaps")
    if not mapped.exists():
        pytest.skip("this system does not say what of a map is in memory")
    regions = mapped.read_text().split(str(tmp_path / "images.npy"))[1:]
    resident = sum(int(region.split("Rss:")[1].split()[0]) for region in regions)
    assert resident < count * size[0] * size[1] / 1024 / 10


def test_batches_show_every_image_once_in_order():
    data = open_data("builtin/digits:test", CONTRACT)
    shown = list(batches(data, 128))
    assert [place for _, place in shown] == [
        slice(0, 128),
        slice(128, 256),
        slice(256, 384),
        slice(384, 500),
    ]
    torch.testing.assert_close(torch.cat([images for images, _ in shown]), data.images(range(500)))


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        next(batches(open_data("builtin/digits:test", CONTRACT), 0))
