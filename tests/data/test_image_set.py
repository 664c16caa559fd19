import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.data.image_set import ImageSetError, ImageSetWriter, is_image_set, read_image_set

COUNT, SHAPE = 20, (3, 4, 5)


def draw(count=COUNT):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *SHAPE), generator=rng, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=rng)


def writer(folder, labels=True, count=COUNT, **fields):
    made_by = {"source": "noise", "settings": {"scale": 0.5}, "seed": 7, **fields}
    return ImageSetWriter(folder, count, SHAPE[1:], SHAPE[0], labels, **made_by)


def write(folder, shards=(5, 5, 10), labels=True):
    pen = writer(folder, labels)
    for images, targets in zip(*(values.split(shards) for values in draw()), strict=True):
        pen.append(images, targets if labels else None)
    return pen.finish()


def test_what_was_written_is_read_back_from_a_memory_map(tmp_path):
    images, targets = draw()
    write(tmp_path)
    found = read_image_set(tmp_path)
    assert isinstance(found.images, np.memmap)
    np.testing.assert_array_equal(found.images, images.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(found.labels, targets.numpy())
    assert (found.source, found.settings, found.seed) == ("noise", {"scale": 0.5}, 7)
    assert found.counts == {"images": 20, "labels": 20}
    found.verify()


def test_the_files_are_plain_numpy_and_json(tmp_path):
    write(tmp_path, labels=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".doublure",
        "images.npy",
        "set.json",
    ]
    assert np.load(tmp_path / "images.npy").shape == (20, 4, 5, 3)
    told = json.loads((tmp_path / "set.json").read_text())
    assert {"source", "settings", "seed", "counts", "digest"} <= told.keys()


@given(cut=st.integers(1, COUNT - 1))
def test_the_digest_does_not_depend_on_the_shards(tmp_path_factory, cut):
    one = write(tmp_path_factory.mktemp("one"), shards=(COUNT,))
    two = write(tmp_path_factory.mktemp("two"), shards=(cut, COUNT - cut))
    assert one.digest == two.digest


def test_a_new_writer_goes_on_after_the_last_complete_shard(tmp_path):
    images, targets = draw()
    whole = write(tmp_path / "whole")
    writer(tmp_path / "cut").append(images[:5], targets[:5])
    with (tmp_path / "cut" / "images.npy").open("ab") as file:
        file.write(b"half of the next shard")
    again = writer(tmp_path / "cut")
    assert again.written == 5
    again.append(images[5:], targets[5:])
    finished = again.finish()
    assert finished.digest == whole.digest
    for name in ("images.npy", "labels.npy", "set.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


KILLED_EVERYWHERE = """
import itertools, os, sys, torch
from pathlib import Path
from doublure.data.image_set import ImageSetWriter, is_image_set, read_image_set

left = None
def die(event, args):
    global left
    if left is not None and event in ("open", "os.rename", "os.remove", "os.truncate"):
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(die)

def work(folder, operations):
    global left
    if os.fork() == 0:
        left = operations
        pen = ImageSetWriter(folder, 16, (4, 4), 1, True, source="s", settings={}, seed=0)
        while pen.written < 16:
            shard = torch.full((8, 1, 4, 4), pen.written, dtype=torch.uint8)
            pen.append(shard, torch.arange(8))
        pen.finish()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.wait()[1])

for operations in itertools.count():
    folder = Path(sys.argv[1], str(operations))
    survived = work(folder, operations) == 0
    assert is_image_set(folder) or work(folder, None) == 0, operations
    found = read_image_set(folder)
    found.verify()
    assert found.images[:, 0, 0, 0].tolist() == [8 * (i // 8) for i in range(16)], operations
    assert found.labels.tolist() == list(range(8)) * 2
    if survived:
        break
print(operations)
"""


def test_killed_before_any_file_operation_it_goes_on_to_the_same_set(tmp_path):
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) > 10


def test_a_full_disk_says_so_and_leaves_what_was_written(tmp_path):
    images, targets = draw()
    pen = writer(tmp_path)
    pen.append(images[:10], targets[:10])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"cannot write images 10 to 20 of 20 .* first 10 are safe"
        ):
            pen.append(images[10:], targets[10:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert pen.written == writer(tmp_path).written == 10
    pen.append(images[10:], targets[10:])
    pen.finish().verify()


def test_a_set_that_cannot_fit_is_refused_before_the_work(tmp_path):
    with pytest.raises(OSError, match=r"need .* MB, but .* free"):
        writer(tmp_path, count=10**15)


def test_another_recipe_does_not_go_on_and_the_differing_keys_are_named(tmp_path):
    writer(tmp_path)
    with pytest.raises(ImageSetError, match="begun with another seed, settings"):
        writer(tmp_path, seed=8, settings={"scale": 1.0})


def test_a_finished_set_is_not_written_over(tmp_path):
    write(tmp_path)
    assert is_image_set(tmp_path)
    with pytest.raises(ImageSetError, match="already holds a finished set"):
        writer(tmp_path)


def test_somebody_elses_array_is_not_written_over(tmp_path):
    (tmp_path / "images.npy").write_bytes(b"precious")
    with pytest.raises(ImageSetError, match="not a set of ours"):
        writer(tmp_path)
    assert (tmp_path / "images.npy").read_bytes() == b"precious"


def test_an_unfinished_set_says_how_far_it_came(tmp_path):
    images, targets = draw()
    writer(tmp_path).append(images[:5], targets[:5])
    with pytest.raises(ImageSetError, match="unfinished: 5 of 20 images are written"):
        read_image_set(tmp_path)


def test_it_cannot_be_finished_early(tmp_path):
    with pytest.raises(ImageSetError, match="has 0 of 20 images"):
        writer(tmp_path).finish()


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_a_file_cut_short_is_noticed(tmp_path, name):
    write(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-1])
    with pytest.raises(ImageSetError, match=f"{name} is missing, damaged or cut short"):
        read_image_set(tmp_path)


WITHOUT_COUNTS = json.dumps(
    {"format": 1, "source": "", "settings": {}, "seed": 0, "counts": None, "digest": ""}
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no valid JSON"),
        ("{}", "lacks format"),
        ("[]", "lacks format"),
        (WITHOUT_COUNTS, "its counts are None"),
    ],
)
def test_a_damaged_description_is_noticed(tmp_path, text, message):
    write(tmp_path)
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(ImageSetError, match=message):
        read_image_set(tmp_path)


def test_an_array_of_another_shape_is_noticed(tmp_path):
    write(tmp_path)
    np.save(tmp_path / "images.npy", np.zeros((19, 4, 5, 3), dtype=np.uint8))
    with pytest.raises(ImageSetError, match="promises 20 of uint8"):
        read_image_set(tmp_path)


def test_one_flipped_bit_fails_the_verification(tmp_path):
    found = write(tmp_path)
    pixels = np.load(tmp_path / "images.npy", mmap_mode="r+")
    pixels[11, 2, 2, 1] ^= 1
    pixels.flush()
    with pytest.raises(ImageSetError, match="has changed since it was written"):
        found.verify()


def test_lost_bytes_are_noticed_when_going_on(tmp_path):
    images, targets = draw()
    writer(tmp_path).append(images[:5], targets[:5])
    (tmp_path / "images.npy").write_bytes(b"short")
    with pytest.raises(ImageSetError, match=r"shorter than progress\.json says"):
        writer(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.zeros(5).long(), "does not fit a set"),
        (torch.zeros(21, *SHAPE, dtype=torch.uint8), torch.zeros(21).long(), "21 images more"),
        (torch.zeros(5, *SHAPE, dtype=torch.uint8), None, "begun with labels"),
    ],
)
def test_a_shard_that_does_not_fit_is_refused(tmp_path, images, labels, message):
    with pytest.raises(ImageSetError, match=message):
        writer(tmp_path).append(images, labels)


def test_what_else_was_counted_is_kept(tmp_path):
    images, targets = draw()
    pen = writer(tmp_path)
    pen.append(images, targets)
    assert pen.finish(counts={"refused": 3}).counts == {"refused": 3, "images": 20, "labels": 20}
