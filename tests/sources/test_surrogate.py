import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Stream
from doublure.sources.surrogate import LEAST_HELD_OUT, Surrogate, hold_out
from tests.tiny import context, rng

EXAMPLES = (Surrogate(data="builtin/digits"),)

NUM_IMAGES = 100


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Image i has the value i everywhere and the label i % 3."""
    path = tmp_path / "numbers.npz"
    x = np.arange(NUM_IMAGES, dtype=np.uint8).repeat(64).reshape(-1, 8, 8)
    np.savez(path, x=x, y=np.arange(NUM_IMAGES) % 3)
    return str(path)


def open_set(data: str, *, labels: bool = False, held_out: float = 0.2, **changes) -> Stream:
    return Surrogate(data=data, labels=labels, held_out=held_out).open(
        context(**changes), None, rng()
    )


def hashes(names: list[int]) -> list[bytes]:
    return [hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names]


def indices(stream: Stream, steps: range) -> list[int]:
    return [i for step in steps for i in stream.draw(step, None).index.tolist()]


def test_a_batch_holds_the_images_its_index_names(images):
    batch = open_set(images).draw(3, None)
    torch.testing.assert_close(batch.images[:, 0, 0, 0] * 255, batch.index.float())
    assert batch.images.shape == (8, 1, 8, 8)
    assert batch.labels is None


def test_labels_come_only_when_asked_for(images):
    batch = open_set(images, labels=True).draw(3, None)
    assert torch.equal(batch.labels, batch.index % 3)


def test_labels_that_are_not_there_are_missed(tmp_path):
    path = tmp_path / "bare.npz"
    np.savez(path, x=np.zeros((4, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="labels"):
        open_set(str(path), labels=True)


def test_every_image_comes_once_an_epoch_in_a_new_order(images):
    stream = open_set(images, held_out=0.0, batch_size=25)
    first, second = indices(stream, range(4)), indices(stream, range(4, 8))
    assert sorted(first) == sorted(second) == list(range(NUM_IMAGES))
    assert first != second
    assert first != sorted(first)


def test_batches_run_on_across_epochs_of_any_length(images):
    whole = indices(open_set(images, held_out=0.0, batch_size=NUM_IMAGES), range(3))
    for batch_size in (7, 60, 150):
        steps = range(3 * NUM_IMAGES // batch_size)
        parts = indices(open_set(images, held_out=0.0, batch_size=batch_size), steps)
        assert parts == whole[: len(parts)]


def test_a_draw_needs_none_before_it(images):
    walked, jumped = open_set(images), open_set(images)
    for step in range(20):
        walked.draw(step, None)
    assert torch.equal(walked.draw(7, None).index, jumped.draw(7, None).index)
    assert walked.state_dict() == {}


def test_processes_share_an_epoch_between_them(images):
    one = indices(open_set(images, held_out=0.0, batch_size=20), range(5))
    ranks = [open_set(images, held_out=0.0, batch_size=10, rank=r, world=2) for r in (0, 1)]
    together = [
        i for step in range(5) for stream in ranks for i in indices(stream, range(step, step + 1))
    ]
    assert together == one


def test_the_held_out_split_shows_what_training_never_does(images):
    train = set(indices(open_set(images), range(40)))
    held = set(indices(open_set(images, split="held_out"), range(40)))
    assert train | held == set(range(NUM_IMAGES))
    assert not train & held
    assert len(held) == LEAST_HELD_OUT


def test_the_split_is_the_same_for_every_seed(images):
    source = Surrogate(data=images)
    held = [
        set(indices(source.open(context(split="held_out"), None, rng(seed)), range(20)))
        for seed in (0, 1)
    ]
    assert held[0] == held[1]


def test_copies_of_an_image_are_on_one_side():
    names = [i % 50 for i in range(200)]
    train, held = hold_out(hashes(names), 0.2)
    assert {names[i] for i in train}.isdisjoint(names[i] for i in held)
    assert len(train) + len(held) == 200


@given(count=st.integers(2, 500), share=st.floats(0.01, 0.99))
def test_the_held_out_share_is_that_asked_for_within_its_limits(count, share):
    train, held = hold_out(hashes(list(range(count))), share)
    least = min(LEAST_HELD_OUT, count // 2)
    assert len(held) == min(max(round(share * count), least), count - 1)
    assert len(train) + len(held) == count


def test_growing_a_set_moves_few_images_across():
    before = set(hold_out(hashes(list(range(1000))), 0.2)[1].tolist())
    after = set(hold_out(hashes(list(range(1100))), 0.2)[1].tolist())
    assert len(before ^ {i for i in after if i < 1000}) < 25


def test_one_image_cannot_be_divided():
    with pytest.raises(ValueError, match="3 images of which 1 are distinct cannot be split"):
        hold_out(hashes([7, 7, 7]), 0.1)


def test_nothing_is_held_out_where_nothing_was_to_be(images):
    with pytest.raises(ValueError, match="held_out is 0, so no image"):
        open_set(images, held_out=0.0, split="held_out")
    with pytest.raises(ValueError, match=r"held_out must be in \[0, 1\), got 1"):
        Surrogate(data=images, held_out=1.0)


def test_state_of_another_stream_is_refused(images):
    stream = open_set(images)
    stream.load_state_dict({})
    with pytest.raises(ValueError, match="a surrogate stream has no state"):
        stream.load_state_dict({"pool": 1})


def test_scikit_learns_digits_are_a_set_too():
    batch = open_set("builtin/digits").draw(0, None)
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
