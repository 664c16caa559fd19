import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from doublure.core.protocols import Outputs
from doublure.objectives.crd import CRD, Banks, contrastive_loss, negative_counts
from tests.objectives.features import BATCH, asked, built, opened

DEFAULTS = {
    "weight": 0.8,
    "num_negatives": 16_384,
    "temperature": 0.07,
    "momentum": 0.5,
    "dim": 128,
    "negatives": "other-classes",
    "find": "features",
}
EXAMPLES = (CRD(num_negatives=64),)

SMALL = CRD(num_negatives=16, dim=8)


def test_it_agrees_with_a_loop_over_negatives():
    own = torch.tensor([0.3, 0.1], dtype=torch.float64)
    others = torch.tensor([[0.2, 0.05, 0.4], [0.1, 0.2, 0.3]], dtype=torch.float64)
    counted = torch.tensor([[2.0, 0.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    noise = 3 / 10
    for i in range(2):
        expected = -math.log(own[i] / (own[i] + noise + 1e-7))
        for j in range(3):
            refused = math.log(noise / (others[i, j] + noise + 1e-7))
            expected -= counted[i, j] * refused
        loss = contrastive_loss(own, others, counted, 10)[i].item()
        assert loss == pytest.approx(expected)


def test_the_loss_is_smallest_where_positives_are_near_and_negatives_far():
    counted = torch.ones(1, 4)
    near, far = torch.tensor([5.0]), torch.tensor([0.1])
    right = contrastive_loss(near, far.expand(1, 4), counted, 4)
    assert right < contrastive_loss(far, far.expand(1, 4), counted, 4)
    assert right < contrastive_loss(near, near.expand(1, 4), counted, 4)


def test_negatives_are_of_other_classes_and_k_in_all():
    drawn, items = torch.tensor([3, 1, 2]), torch.tensor([0, 1, 1])
    other = items != torch.tensor([0, 1, 2])[:, None]
    counted = negative_counts(drawn, other, 6)
    assert counted.tolist() == [[0.0, 2.0, 4.0], [6.0, 0.0, 0.0], [3.0, 1.0, 2.0]]


def test_without_a_negative_nothing_is_asked_of_the_positive():
    scores = torch.tensor([0.3])
    loss = contrastive_loss(scores, torch.ones(1, 4), torch.zeros(1, 4), 4)
    assert loss.item() == pytest.approx(0.0, abs=1e-5)


def test_an_item_that_was_drawn_twice_counts_as_two():
    own, others = torch.tensor([0.3]), torch.tensor([[0.2, 0.05]])
    twice = contrastive_loss(own, others, torch.tensor([[2.0, 1.0]]), 10)
    listed = contrastive_loss(own, others[:, [0, 0, 1]], torch.ones(1, 3), 10)
    torch.testing.assert_close(twice, listed)


def test_images_of_one_class_are_pulled_apart_by_relaxed_negatives_only():
    """All six of one class: no negative is of another, so there is nothing to learn."""
    student, teacher = built("resnet8", 1).eval(), built("vgg8")
    alike = dataclasses.replace(BATCH, labels=torch.zeros(6, dtype=torch.int64))
    exact = opened(SMALL, student, teacher)
    assert asked(exact, student, teacher, alike)["crd"].item() == pytest.approx(0.0, abs=1e-4)
    relaxed = opened(dataclasses.replace(SMALL, negatives="other-items"), student, teacher)
    assert asked(relaxed, student, teacher, alike)["crd"].item() > 1


def test_a_bank_takes_new_items_as_they_are_and_moves_the_others():
    banks = Banks(2, 0.5, torch.device("cpu"))
    right, up = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    banks.admit(torch.tensor([3]), torch.tensor([7]), right, right)
    assert banks.items.tolist() == [3]
    assert banks.classes[3] == 7
    banks.move(torch.tensor([3]), up, right)
    torch.testing.assert_close(banks.student[3], F.normalize(torch.ones(1, 2))[0])
    assert banks.teacher[3].tolist() == [1.0, 0.0]
    banks.admit(torch.tensor([3]), torch.tensor([7]), up, up)
    assert banks.teacher[3].tolist() == [1.0, 0.0]


def test_random_banks_hold_every_item_from_the_start_at_a_length_of_one():
    banks = Banks(16, 0.5, torch.device("cpu"), torch.Generator().manual_seed(0))
    right = F.normalize(torch.ones(1, 16))
    banks.admit(torch.tensor([999]), torch.tensor([7]), right, right)
    assert len(banks.items) == 1000
    for bank in (banks.student, banks.teacher):
        assert bank.square().sum(1).mean().item() == pytest.approx(1, abs=0.03)
        assert bank.abs().max() <= math.sqrt(3 / 16)
        assert bank.mean().item() == pytest.approx(0, abs=0.01)
        assert not torch.equal(bank[999], right[0])
    assert not torch.equal(banks.student, banks.teacher)
    before = banks.student[999].clone()
    banks.move(torch.tensor([999]), right, right)
    torch.testing.assert_close(banks.student[999], F.normalize(before + right[0], dim=0))


def test_where_the_banks_began_is_forgotten():
    places, seen = torch.tensor([0, 1]), F.normalize(torch.randn(2, 8), dim=1)
    both = [
        Banks(8, 0.5, torch.device("cpu"), rng) for rng in (None, torch.Generator().manual_seed(0))
    ]
    for banks in both:
        for _ in range(40):
            banks.admit(places, places, seen, seen)
            banks.move(places, seen, seen)
    torch.testing.assert_close(both[0].student, both[1].student)


def test_an_item_is_first_contrasted_with_itself_or_as_published_with_a_random_vector():
    student, teacher = built("resnet8", 1).eval(), built("vgg8")
    terms = {}
    for beginning in ("seen", "random"):
        settings = dataclasses.replace(SMALL, beginning=beginning)
        loss_fn = opened(settings, student, teacher)
        later = dataclasses.replace(BATCH, index=torch.arange(20, 26))
        terms[beginning] = asked(loss_fn, student, teacher, later)["crd"]
        assert len(loss_fn.banks.items) == {"seen": 6, "random": 26}[beginning]
    assert not torch.equal(terms["seen"], terms["random"])


def test_the_first_batch_sets_the_scale_once():
    student, teacher = built("resnet8", 1).eval(), built("vgg8")
    loss_fn = opened(SMALL, student, teacher)
    asked(loss_fn, student, teacher)
    scale = loss_fn.banks.scale.clone()
    asked(loss_fn, student, teacher)
    assert scale.gt(0).all()
    assert torch.equal(loss_fn.banks.scale, scale)


@pytest.mark.parametrize("beginning", ["seen", "random"])
def test_it_goes_on_from_its_state_with_the_same_bits(beginning):
    settings = dataclasses.replace(SMALL, beginning=beginning)
    student, teacher = built("resnet8", 1).eval(), built("vgg8")
    one = opened(settings, student, teacher)
    asked(one, student, teacher)
    again = opened(settings, student, teacher, seed=0)
    again.load_state_dict(one.state_dict())
    later = dataclasses.replace(BATCH, index=torch.arange(4, 10))
    expected = asked(one, student, teacher, later)["crd"]
    assert torch.equal(asked(again, student, teacher, later)["crd"], expected)


def test_the_pair_of_one_item_is_told_from_pairs_of_two():
    """Free vectors for the student, one direction for each item of the teacher."""
    loss_fn = opened(SMALL, built("resnet8"), built("vgg8"))
    (ours,), (theirs,) = loss_fn.features.student, loss_fn.features.teacher
    vectors = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    taught = torch.eye(6, 512)
    optimizer = torch.optim.Adam([vectors, *loss_fn.parameters()], lr=0.01)
    for _ in range(100):
        student = Outputs(output=None, features={ours: vectors})
        terms = loss_fn(student, Outputs(output=None, features={theirs: taught}), BATCH)
        optimizer.zero_grad()
        terms["crd"].backward()
        optimizer.step()
    products = loss_fn.banks.student @ loss_fn.banks.teacher.T
    assert torch.equal(products.argmax(1), torch.arange(6))
    assert products.diag().mean() > products.mean() + 0.5


def test_a_set_of_nameless_images_is_refused_before_the_first_step():
    nameless = dataclasses.replace(BATCH, index=None)
    with pytest.raises(ValueError, match="the items of this transfer set have no index"):
        CRD().open(built("resnet8"), built("vgg8"), nameless, torch.Generator())
