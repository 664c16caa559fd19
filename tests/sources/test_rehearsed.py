from pathlib import Path

import pytest
import torch

from doublure.core.protocols import Stream
from doublure.sources.noise import Noise
from doublure.sources.rehearsed import Rehearsed
from doublure.sources.surrogate import Surrogate
from tests import tiny


def beside_new_images(folder: Path) -> Rehearsed:
    new = Surrogate(data=tiny.write_labelled(folder), labels=True)
    return Rehearsed(source=Noise(), new=new)


EXAMPLES = (beside_new_images,)


def opened(share: float = 0.5, **context: object) -> Stream:
    source = Rehearsed(source=Noise(), new=tiny.Grey(labels=True), share=share)
    return source.open(tiny.context(batch_size=8, **context), None, tiny.rng())


def test_new_images_come_first_with_their_labels_and_the_others_with_none():
    batch = opened(0.25).draw(0, None)
    assert batch.images.shape == (8, 1, 8, 8)
    assert (batch.labels[:2] >= 0).all()
    assert batch.labels[2:].tolist() == [-1] * 6


def test_held_out_are_transfer_images_alone():
    assert opened(split="held_out").draw(0, None).labels is None


@pytest.mark.parametrize(("share", "new"), [(0.01, 1), (0.99, 7)])
def test_neither_side_is_left_out(share, new):
    labels = opened(share).draw(0, None).labels
    assert int((labels >= 0).sum()) == new


def test_new_images_without_labels_are_refused():
    source = Rehearsed(source=Noise(), new=tiny.Grey())
    with pytest.raises(ValueError, match="the new classes need labels"):
        source.open(tiny.context(), None, tiny.rng()).draw(0, None)


def test_a_share_of_one_is_no_rehearsal():
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\), got 1"):
        Rehearsed(source=Noise(), new=Noise(), share=1.0)


def test_both_sides_draw_from_the_seed():
    assert torch.equal(opened().draw(3, None).images, opened().draw(3, None).images)
