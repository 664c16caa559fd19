import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Outputs, image_batch
from doublure.nets.convnet import ConvNet
from doublure.nets.network import freeze
from doublure.objectives.knowledge_representing import (
    KnowledgeRepresenting,
    prior_loss,
    soft_histogram,
    soft_threshold,
    sparsify,
    stage_weights,
)
from tests import tiny

DEFAULTS = {"weight": 0.1, "num_bins": 33, "sparsity": 0.9}

IMAGES = torch.rand(2, 1, 8, 8, generator=tiny.rng())


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed: int, width: int) -> ConvNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNet(width=width, classes=3, channels=1)


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_a_histogram_sums_to_one_and_forgets_order_place_and_scale(seed, scale, shift):
    values = draw(seed, 60)
    shares = soft_histogram(values, 33)
    assert shares.min() >= 0
    assert shares.sum().item() == pytest.approx(1.0)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(soft_histogram(scale * values[order] + shift, 33), shares)
    torch.testing.assert_close(soft_histogram(-values, 33), shares.flip(0))


def test_two_values_lie_one_deviation_apart_from_the_middle():
    shares = soft_histogram(torch.tensor([-3.0, 7.0]), 9)  # bins at -4, -3, ..., 4
    assert shares.tolist() == pytest.approx([0, 0, 0, 0.5, 0, 0.5, 0, 0, 0], abs=1e-6)


def test_its_gradient_is_that_of_the_equation():
    values = draw(3, 12).requires_grad_()
    target = soft_histogram(draw(4, 20), 9)
    assert torch.autograd.gradcheck(lambda x: prior_loss(soft_histogram(x, 9), target), values)


@given(seed=st.integers(0, 99))
def test_the_prior_is_a_divergence(seed):
    ours, theirs = (soft_histogram(draw(seed + i, 50), 9) for i in (0, 100))
    assert prior_loss(ours, theirs) >= 0
    assert prior_loss(theirs, theirs).item() == pytest.approx(0.0, abs=1e-12)


def test_the_threshold_by_hand():
    gradient = torch.tensor([0.5, -0.1, 0.05, -2.0])
    assert soft_threshold(gradient, 0.2).tolist() == pytest.approx([0.3, 0, 0, -1.8])
    assert torch.equal(soft_threshold(gradient, 0.0), gradient)
    assert soft_threshold(gradient, 2.0).abs().sum() == 0


@given(seed=st.integers(0, 99), threshold=st.floats(0, 2))
def test_the_threshold_brings_no_two_gradients_further_apart(seed, threshold):
    one, other = draw(seed, 20), draw(seed + 100, 20)
    apart = (soft_threshold(one, threshold) - soft_threshold(other, threshold)).norm()
    assert apart <= (one - other).norm() + 1e-12


@pytest.mark.parametrize(("sparsity", "kept"), [(0.0, 40), (0.5, 20), (0.9, 4), (1.0, 0)])
def test_the_share_that_is_left_alone_is_the_one_asked_for(sparsity, kept):
    made = sparsify(draw(0, 40), sparsity)
    assert int((made != 0).sum()) == kept


def test_weights_are_grouped_by_stage_without_the_classifier():
    student = network(0, 3)
    groups = stage_weights(student, IMAGES)
    expected = [[student.conv1.weight], [student.conv2.weight], [student.conv3.weight]]
    assert [[id(w) for w in group] for group in groups] == [[id(w) for w in g] for g in expected]


def gradients(sparsity: float, student: ConvNet) -> list[torch.Tensor]:
    teacher, batch = freeze(network(1, 5)), image_batch(IMAGES)
    loss_fn = KnowledgeRepresenting(sparsity=sparsity).open(student, teacher, batch, tiny.rng())
    none = Outputs(output=torch.zeros(2, 3))
    (loss,) = loss_fn(none, none, batch).values()
    student.zero_grad()
    loss.backward()
    return [w.grad.clone() for w in (student.conv1.weight, student.conv2.weight)]


def test_only_this_terms_gradient_is_made_sparse():
    student = network(0, 4)
    whole, sparse, none = (gradients(s, student) for s in (0.0, 0.75, 1.0))
    for dense, thin, zero in zip(whole, sparse, none, strict=True):
        torch.testing.assert_close(thin, sparsify(dense, 0.75))
        assert zero.abs().sum() == 0
    assert (whole[1] != 0).float().mean() > 0.9


def test_a_network_is_its_own_prior_in_any_order_and_at_any_scale():
    student, batch = network(0, 4), image_batch(IMAGES)
    teacher = network(0, 4)
    with torch.no_grad():
        teacher.conv2.weight.copy_(3 * teacher.conv2.weight.flip(0))
    none = Outputs(output=torch.zeros(2, 3))
    loss_fn = KnowledgeRepresenting().open(student, freeze(teacher), batch, tiny.rng())
    assert loss_fn(none, none, batch)["weight_prior"].item() == pytest.approx(0.0, abs=1e-6)
    other = KnowledgeRepresenting().open(student, freeze(network(1, 6)), batch, tiny.rng())
    assert other(none, none, batch)["weight_prior"] > 1e-3
