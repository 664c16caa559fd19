from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from doublure.core.protocols import Batch, Outputs, Stream, StreamContext, image_batch
from doublure.core.seeding import from_seed
from doublure.sources.mixing import Mixed, _partners, boxes, cutmix, mixup
from tests.tiny import Grey, context, rng


def draw(seed: int) -> Tensor:
    return torch.rand((5, 3, 8, 8), generator=from_seed(seed))


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """Image i has the value i / 16 everywhere and the label i % 3."""

    fields: tuple[tuple[str, Any], ...] = ()

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "Numbered":
        return self

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        number = torch.arange(16)
        images = (number / 16).view(-1, 1, 1, 1).expand(16, 1, 8, 8).contiguous()
        return image_batch(images, **({"labels": number % 3, "index": number} | dict(self.fields)))

    def state_dict(self) -> dict[str, Any]:
        return {"loaded": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {"loaded": 1}


def open_mixed(mixed: Mixed, **changes: Any) -> Stream:
    return mixed.open(context(batch_size=16, **changes), None, rng())


def test_mixup_by_hand():
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    mixed = mixup(one, other, torch.tensor([0.75]))
    torch.testing.assert_close(mixed, torch.tensor([[0.75, 0.125]]))


def test_mixup_keeping_all_or_nothing_returns_one_of_its_inputs():
    assert torch.equal(mixup(draw(0), draw(1), torch.ones(5)), draw(0))
    assert torch.equal(mixup(draw(0), draw(1), torch.zeros(5)), draw(1))


@given(kept=st.floats(0, 1), seed=st.integers(0, 99))
def test_mixup_is_symmetric(kept, seed):
    one, other = draw(seed), draw(seed + 100)
    share = torch.full((5,), kept)
    torch.testing.assert_close(mixup(one, other, share), mixup(other, one, 1 - share))


def test_a_box_of_a_quarter_by_hand():
    inside = boxes(torch.tensor([0.75]), torch.tensor([0.5]), torch.tensor([0.25]), (4, 4))
    expected = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    expected[..., 0:2, 1:3] = True
    assert torch.equal(inside, expected)


def test_a_box_keeps_all_at_one_and_is_cut_at_the_edge():
    corner = torch.zeros(1)
    assert not boxes(torch.ones(1), corner + 0.5, corner + 0.5, (6, 6)).any()
    assert boxes(torch.zeros(1), corner + 0.5, corner + 0.5, (6, 6)).all()
    assert boxes(torch.zeros(1), corner, corner, (6, 6)).float().mean() == 0.25


def test_cutmix_takes_each_pixel_from_one_of_both():
    inside = boxes(torch.full((5,), 0.5), torch.rand(5), torch.rand(5), (8, 8))
    mixed = cutmix(draw(0), draw(1), inside)
    assert torch.equal(mixed, torch.where(inside, draw(1), draw(0)))
    assert ((mixed == draw(0)) | (mixed == draw(1))).all()


@given(num_images=st.integers(2, 40), seed=st.integers(0, 99))
def test_partners_are_others_and_everyone_is_one_once(num_images, seed):
    partner = _partners(num_images, from_seed(seed))
    assert torch.equal(partner.sort().values, torch.arange(num_images))
    assert (partner != torch.arange(num_images)).all()


def test_labels_are_mixed_as_the_images_are():
    batch = open_mixed(Mixed(source=Numbered())).draw(0, None)
    assert batch.labels.shape == (16, 3)
    torch.testing.assert_close(batch.labels.sum(1), torch.ones(16))
    before = Numbered().draw(0, None)
    value = batch.images[:, 0, 0, 0] * 16
    for i in range(16):
        # Solve value = l i + (1 - l) j for the partner that explains the label too.
        explained = False
        for j in range(16):
            kept = (value[i] - j) / (i - j) if i != j else torch.tensor(-1.0)
            if -1e-4 <= kept <= 1 + 1e-4:
                target = torch.zeros(3)
                target[before.labels[i]] += kept
                target[before.labels[j]] += 1 - kept
                explained |= torch.allclose(target, batch.labels[i], atol=1e-3)
        assert explained


def test_cutmix_labels_are_the_shares_of_the_pixels():
    batch = open_mixed(Mixed(source=Numbered(), blend="cutmix")).draw(0, None)
    number = (batch.images * 16).round().long()
    for image, label in zip(number, batch.labels, strict=True):
        shares = torch.bincount(image.flatten() % 3, minlength=3) / image.numel()
        torch.testing.assert_close(label, shares)


def test_soft_labels_stay_probabilities():
    soft = torch.softmax(torch.randn((16, 3), generator=from_seed(0)), 1)
    batch = open_mixed(Mixed(source=Numbered(fields=(("labels", soft),)))).draw(0, None)
    torch.testing.assert_close(batch.labels.sum(1), torch.ones(16))


def test_without_labels_nothing_but_the_images_is_mixed():
    batch = open_mixed(Mixed(source=Grey())).draw(0, None)
    assert batch.labels is None
    assert batch.views["student"] is batch.views["teacher"]
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1


def test_only_the_share_asked_for_is_mixed():
    none = open_mixed(Mixed(source=Numbered(), share=0.0)).draw(0, None)
    assert torch.equal(none.images, Numbered().draw(0, None).images)
    stream = open_mixed(Mixed(source=Numbered(), share=0.25))
    plain = Numbered().draw(0, None).images
    mixed = sum((stream.draw(s, None).images != plain).any(3).any(2).sum() for s in range(40))
    assert mixed.item() == pytest.approx(160, abs=35)


def test_a_small_alpha_mixes_hardly_and_a_large_one_evenly():
    def kept(alpha: float | None) -> Tensor:
        stream = open_mixed(Mixed(source=Numbered(), alpha=alpha))
        return torch.cat([stream.draw(s, None).labels.amax(1) for s in range(40)])

    assert kept(0.01).mean() > 0.95
    # Of equal labels nothing is seen of the mix.
    large = kept(1e4)
    torch.testing.assert_close(large[large < 0.9].mean(), torch.tensor(0.5), atol=0.02, rtol=0)
    even = kept(None)
    assert 0.7 < even[even < 1].mean() < 0.8  # of U(0, 1), the larger share: 3/4 on average


def test_a_draw_depends_on_seed_step_and_rank_alone():
    mixed = Mixed(source=Numbered(), alpha=0.4)
    one, other = open_mixed(mixed), open_mixed(mixed)
    one.draw(0, None)
    assert torch.equal(one.draw(3, None).images, other.draw(3, None).images)
    assert not torch.equal(one.draw(2, None).images, other.draw(3, None).images)
    second = open_mixed(mixed, rank=1, world=2)
    assert not torch.equal(second.draw(3, None).images, other.draw(3, None).images)


def test_a_stale_answer_is_dropped_and_index_and_state_pass():
    answered = Numbered(fields=(("teacher", Outputs(output=torch.zeros(16, 3))),))
    stream = open_mixed(Mixed(source=answered))
    batch = stream.draw(0, None)
    assert batch.teacher is None
    assert torch.equal(batch.index, torch.arange(16))
    assert stream.state_dict() == {"source": {"loaded": 1}}
    stream.load_state_dict(stream.state_dict())


def test_masks_are_refused():
    stream = open_mixed(Mixed(source=Numbered(fields=(("mask", torch.ones(16)),))))
    with pytest.raises(ValueError, match="mixing cannot combine masks"):
        stream.draw(0, None)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="alpha must be positive, got 0"):
        Mixed(source=Grey(), alpha=0.0)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 2"):
        replace(Mixed(source=Grey()), share=2.0)
    with pytest.raises(ValueError, match="mixing needs a batch_size of at least 2, got 1"):
        Mixed(source=Grey()).open(context(batch_size=1), None, rng())
