import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from doublure.core.seeding import from_seed
from doublure.nets.batchnorm_statistics import (
    Moments,
    MomentsAverage,
    MomentsPool,
    MomentsRecorder,
    Stored,
    batch_moments,
    batchnorm_kl,
    batchnorm_layers,
    feature_statistics_loss,
    gaussian_kl,
    measured_statistics,
    normalising_layers,
    stored_statistics,
)
from doublure.nets.network import freeze
from tests import tiny


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=from_seed(seed), dtype=torch.float64)


def stored(mean: Tensor, variance: Tensor, eps: float = 0.0) -> Stored:
    return Stored(mean, variance, eps)


def one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("shape", [(7, 3), (5, 3, 4), (4, 3, 2, 2)])
def test_gradients_of_the_moments_are_those_of_finite_differences(shape):
    assert torch.autograd.gradcheck(batch_moments, numbers(*shape).requires_grad_())


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_the_moments_lie_in_memory_as_the_values_do(order):
    values = numbers(4, 3, 5, 5).contiguous(memory_format=order).requires_grad_()
    moments = batch_moments(values)
    (gradient,) = torch.autograd.grad(moments.mean.sum() + moments.variance.sum(), values)
    assert gradient.stride() == values.stride()


def test_moments_and_the_feature_loss_of_a_range_by_hand():
    moments = batch_moments(torch.arange(16.0).view(2, 2, 2, 2))
    assert moments.mean.tolist() == [5.5, 9.5]
    assert moments.variance.tolist() == [17.25, 17.25]
    normal = stored(torch.zeros(2), torch.zeros(2) + 1)
    loss = feature_statistics_loss({"bn": moments}, {"bn": normal}, 1.0)
    assert loss.item() == pytest.approx(33.9582196, abs=1e-5)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 5), (7, 3, 5, 2), (7, 3, 2, 2, 4)])
def test_moments_are_those_batchnorm_of_any_dimension_takes(shape):
    values = numbers(*shape)
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    norm = layer(3, momentum=None).double()
    norm(values)
    count = values.numel() / 3
    moments = batch_moments(values)
    torch.testing.assert_close(moments.mean, norm.running_mean)
    torch.testing.assert_close(moments.variance, norm.running_var * (count - 1) / count)


def test_what_a_network_saw_once_it_recognises_up_to_the_unbiased_variance():
    images = torch.rand(16, 1, 8, 8, generator=from_seed(0))
    network = tiny.network(0)
    network[1].momentum = None
    network.train()(images)
    network.eval()
    known = stored_statistics(network)
    with MomentsRecorder(network, known) as recorder:
        network(images)
        seen = recorder.read()
    loss = feature_statistics_loss(seen, known, 1.0)
    expected = torch.linalg.vector_norm(known["1"].variance) / (16 * 64)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)


def test_divergences_by_hand_and_their_direction():
    def kl(batch: tuple[float, float], known: tuple[float, float]) -> float:
        batch_, known_ = [[one(value) for value in pair] for pair in (batch, known)]
        return gaussian_kl(Moments(*batch_), stored(*known_)).item()

    assert kl((1, 2), (0, 1)) == pytest.approx(0.3465736, abs=1e-7)
    assert kl((0, 1), (1, 2)) == pytest.approx(0.6534264, abs=1e-7)
    assert kl((0, 0.01), (0, 1)) == pytest.approx(47.197, abs=1e-3)
    assert kl((0, 100), (0, 1)) == pytest.approx(1.8076, abs=1e-4)
    assert kl((3, 2), (3, 2)) == 0


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10))
def test_the_divergence_is_a_mean_that_knows_neither_scale_nor_order_of_channels(seed, scale):
    mean, variance = numbers(2, 5, seed=seed), numbers(2, 5, seed=seed + 1).exp()
    batch, known = Moments(mean[0], variance[0]), stored(mean[1], variance[1])
    expected = batchnorm_kl({"bn": batch}, {"bn": known})
    order = torch.randperm(5, generator=from_seed(seed))
    for each in (
        (Moments(*(v[order] for v in batch)), stored(known.mean[order], known.variance[order])),
        (
            Moments(scale * batch.mean, scale**2 * batch.variance),
            stored(scale * known.mean, scale**2 * known.variance),
        ),
    ):
        torch.testing.assert_close(batchnorm_kl({"bn": each[0]}, {"bn": each[1]}), expected)
    wide = {"bn": Moments(*(v.repeat(3) for v in batch)), "again": batch}
    twice = stored(known.mean.repeat(3), known.variance.repeat(3))
    torch.testing.assert_close(batchnorm_kl(wide, {"bn": twice, "again": known}), expected)


def test_the_divergence_has_the_gradient_of_its_closed_form():
    mean, log_variance = one(0.7).requires_grad_(), one(0.4).requires_grad_()
    known = stored(one(0.2), one(1.5))
    value = gaussian_kl(Moments(mean, log_variance.exp()), known).sum()
    to_mean, to_log = torch.autograd.grad(value, [mean, log_variance])
    variance = math.exp(0.4)
    assert to_mean.item() == pytest.approx((0.7 - 0.2) / variance)
    assert to_log.item() == pytest.approx(0.5 * (1 - (1.5 + 0.5**2) / variance))


def test_where_all_agrees_both_distances_are_zero_and_pull_nowhere():
    mean, variance = numbers(4).requires_grad_(), numbers(4, seed=1).exp().requires_grad_()
    known = {"bn": stored(mean.detach(), variance.detach(), 1e-5)}
    for loss in (
        feature_statistics_loss({"bn": Moments(mean, variance)}, known, 1.0),
        batchnorm_kl({"bn": Moments(mean, variance)}, known),
    ):
        assert loss.item() == pytest.approx(0, abs=1e-12)
        for gradient in torch.autograd.grad(loss, [mean, variance]):
            assert gradient.abs().max() < 1e-12


def test_the_norms_pull_equally_hard_from_near_and_far():
    def pull(distance: float) -> float:
        mean = torch.full((3,), distance, dtype=torch.float64, requires_grad=True)
        batch = {"bn": Moments(mean, torch.ones(3).double())}
        known = {"bn": stored(torch.zeros(3).double(), torch.ones(3).double())}
        (gradient,) = torch.autograd.grad(feature_statistics_loss(batch, known, 1.0), mean)
        return gradient.norm().item()

    assert pull(1e-6) == pytest.approx(1)
    assert pull(100.0) == pytest.approx(1)


def test_the_first_layer_called_counts_as_often_as_told():
    batch = {"first": Moments(one(1), one(1)), "second": Moments(one(2), one(1))}
    known = {name: stored(one(0), one(1)) for name in batch}
    assert feature_statistics_loss(batch, known, 10.0).item() == 12


class Twice(nn.Module):
    """Calls its BatchNorm on an image and on twice the image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = self.same = nn.BatchNorm2d(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images) + self.same(2 * images)


def test_moments_of_a_layer_called_twice_are_averaged_over_the_calls():
    network = Twice().eval()
    assert list(stored_statistics(network)) == ["norm"]
    images = numbers(8, 1, 3, 3).float()
    with MomentsRecorder(network, ["norm"]) as recorder:
        network(images)
        (seen,) = recorder.read().values()
    alone = batch_moments(images)
    torch.testing.assert_close(seen.mean, 1.5 * alone.mean)
    torch.testing.assert_close(seen.variance, 2.5 * alone.variance)


def test_gradients_reach_the_images_and_no_trace_is_left_on_the_network():
    network = freeze(tiny.network(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(4, 1, 8, 8, generator=from_seed(0)).requires_grad_()
    known = stored_statistics(network)
    with MomentsRecorder(network, known) as recorder:
        network(images)
        loss = feature_statistics_loss(recorder.read(), known, 1.0)
        with pytest.raises(ValueError, match="none of the recorded layers"):
            recorder.read()
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.abs().sum() > 0
    assert all(not layer._forward_pre_hooks for layer in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_inputs_of_half_precision_are_counted_in_single():
    network = tiny.network(0).eval()
    known = stored_statistics(network)
    images = torch.rand(4, 1, 8, 8, generator=from_seed(0))
    with MomentsRecorder(network, known) as recorder:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(images)
        (seen,) = recorder.read().values()
    assert seen.mean.dtype == seen.variance.dtype == torch.float32
    assert batch_moments(images.double()).mean.dtype == torch.float64


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)),
        nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)),
    ],
    ids=["another norm", "no statistics"],
)
def test_a_network_without_stored_statistics_is_refused_with_a_way_out(network):
    with pytest.raises(ValueError, match=r"no BatchNorm layer .* use the checkpoint from before"):
        stored_statistics(network)
    assert batchnorm_layers(network) == {}


def test_a_layer_that_is_not_there_is_refused_and_leaves_no_hook():
    network = tiny.network(0)
    with pytest.raises(ValueError, match="unknown layer to take statistics of 'bn'"):
        MomentsRecorder(network, ["1", "bn"])
    assert not network[1]._forward_pre_hooks


class Tokens(nn.Module):
    """Normalises the channels of tokens, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("network", [Tokens(), nn.Sequential(nn.GroupNorm(1, 3))])
def test_statistics_of_other_networks_are_measured_whatever_the_batches(network):
    images = numbers(12, 3, 4, 4).float()
    names = normalising_layers(network)
    assert len(names) == 1
    whole = batch_moments(images)
    for size in (12, 5):
        (known,) = measured_statistics(network, names, images.split(size)).values()
        torch.testing.assert_close(known.mean, whole.mean)
        torch.testing.assert_close(known.variance, whole.variance)
    with pytest.raises(ValueError, match="at least one layer and one batch"):
        measured_statistics(network, names, [])


def test_a_history_is_joined_and_kept_as_told():
    first, second = ({"bn": Moments(one(a), one(b))} for a, b in ((1, 2), (3, 6)))
    average = MomentsAverage(0.75)
    assert average.join(first) == first
    average.update(first)
    assert average.join(second) == {"bn": Moments(one(1.5), one(3))}
    average.update(second)
    again = MomentsAverage(0.75)
    again.load_state_dict(average.state_dict())
    assert again.join(first) == average.join(first) == {"bn": Moments(one(1.375), one(2.75))}
    alone = MomentsAverage(0.0)
    alone.update(first)
    assert alone.join(second) == second
    with pytest.raises(ValueError, match="momentum must be"):
        MomentsAverage(1.0)


def test_with_a_history_a_batch_pulls_by_its_share_only():
    average = MomentsAverage(0.9)
    average.update({"bn": Moments(torch.ones(3), torch.ones(3))})
    mean = torch.ones(3, requires_grad=True)
    known = {"bn": stored(torch.zeros(3), torch.ones(3))}
    loss = feature_statistics_loss(average.join({"bn": Moments(mean, torch.ones(3))}), known, 1.0)
    (gradient,) = torch.autograd.grad(loss, mean)
    assert gradient.norm().item() == pytest.approx(0.1)


def test_pooled_moments_are_those_of_all_batches_as_one():
    values, pool = numbers(3, 6, 4, 5), MomentsPool()
    for i, batch in enumerate(values):
        seen = {"bn": batch_moments(batch)}
        joined = pool.join(seen)["bn"]
        whole = batch_moments(values[: i + 1].flatten(0, 1))
        torch.testing.assert_close(joined, whole)
        again = MomentsPool()
        again.load_state_dict(pool.state_dict())
        torch.testing.assert_close(again.join(seen), pool.join(seen), rtol=0, atol=0)
        pool.update(seen)
