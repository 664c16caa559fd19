import copy
import math

import pytest
import torch
from torch import Tensor, nn

from doublure.audits.transfer_tally import (
    BatchNormTally,
    StreamTally,
    Watch,
    evenly_spaced,
)
from doublure.core.seeding import from_seed
from doublure.nets.batchnorm_statistics import (
    MomentsRecorder,
    batchnorm_kl,
    stored_statistics,
)
from doublure.nets.network import Network, freeze
from tests import taught
from tests.tiny import CONTRACT, network

IMAGES = torch.rand(150, 1, 8, 8, generator=from_seed(0))


def teacher(body: nn.Module | None = None) -> nn.Module:
    return freeze(Network(body or network(0), CONTRACT))


def tallied(
    images: Tensor,
    batch_size: int = 64,
    *,
    classes: int = 3,
    body: nn.Module | None = None,
    centres: Tensor | None = None,
):
    tally = StreamTally(
        teacher(body),
        classes=classes,
        channels=images.shape[1],
        count=len(images),
        temperature=4.0,
        centres=centres,
        rng=from_seed(0),
    )
    for part in images.split(batch_size):
        tally.add(part)
    return tally.finish()


def distance(
    net: nn.Module, images: Tensor, batch_size: int = 64, *, name: str = "bn_distance"
) -> float | None:
    tally = BatchNormTally(net, sets=1)
    for part in images.split(batch_size):
        with tally.watching(torch.ones(1, len(part), dtype=torch.float64)):
            net(part)
    found = tally.measurements().get(name)
    return None if found is None else found.item()


def test_a_stream_with_the_stored_statistics_is_at_distance_zero():
    layer = nn.BatchNorm2d(3).eval()
    images = torch.randn(40, 3, 5, 5, generator=from_seed(1)) + 7
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert distance(layer, images) > 1.0
    layer.running_mean.copy_(images.mean((0, 2, 3)))
    layer.running_var.copy_(images.var((0, 2, 3), correction=0))
    assert distance(layer, images) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["1d", "2d", "far from zero"])
def test_the_distance_is_that_of_two_passes_over_the_whole(kind):
    shape = (70, 4) if kind == "1d" else (70, 4, 6, 6)
    values = torch.randn(shape, generator=from_seed(2))
    values = values * torch.tensor([0.01, 1, 3, 9]).view(1, 4, *(1,) * (values.dim() - 2))
    if kind == "far from zero":
        values = values + 300.0
    layer = (nn.BatchNorm1d(4) if kind == "1d" else nn.BatchNorm2d(4)).eval()
    wide = values.double().transpose(0, 1).flatten(1)
    mean = wide.mean(1)
    variance = (wide - mean[:, None]).square().mean(1)
    scale = 1 + layer.eps
    by_hand = mean.square() / scale + 0.5 * ((variance + layer.eps) / scale).log().abs()
    assert distance(layer, values, 16) == pytest.approx(by_hand.mean().item(), rel=1e-5)


def test_the_divergence_is_that_of_the_knowledge_within_over_the_whole_stream():
    net = teacher()
    known = stored_statistics(net)
    with torch.no_grad(), MomentsRecorder(net, known) as recorder:
        net(IMAGES)
        whole = batchnorm_kl(recorder.read(), known).item()
    assert distance(net, IMAGES, 31, name="bn_divergence") == pytest.approx(whole, rel=1e-5)
    layer = nn.BatchNorm1d(1, eps=1e-12).eval()  # stores N(0, 1)
    values = torch.tensor([[1 - math.sqrt(2)], [1 + math.sqrt(2)]])  # N(1, 2)
    by_hand = distance(layer, values, name="bn_divergence")
    assert by_hand == pytest.approx(0.3465736, abs=1e-6)


def test_the_divergence_tells_digits_from_one_digit_and_from_noise():
    images, labels = taught.images_and_labels("test")
    noise = torch.rand(images.shape, generator=from_seed(0))
    whole, one_class, nothing = (
        distance(taught.teacher(), shown, name="bn_divergence")
        for shown in (images, images[labels == 3], noise)
    )
    assert 0 < 10 * whole < min(one_class, nothing)


def test_neither_order_nor_batch_size_moves_the_distance():
    net = teacher()
    whole = distance(net, IMAGES, 150)
    assert distance(net, IMAGES, 7) == pytest.approx(whole, rel=1e-9)
    shuffled = IMAGES[torch.randperm(150, generator=from_seed(3))]
    assert distance(net, shuffled, 31) == pytest.approx(whole, rel=1e-9)


def test_without_batchnorm_there_is_no_distance_and_it_is_said():
    found = tallied(IMAGES, body=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    assert "bn_distance" not in found.measurements
    for name in ("bn_distance", "bn_divergence"):
        assert "no BatchNorm" in found.missing[name]


def test_without_a_last_linear_layer_features_are_left_out_and_it_is_said():
    body = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    found = tallied(IMAGES, body=body, centres=torch.zeros(2, 5))
    left_out = {"feature_coverage", "feature_rank", "duplicates"}
    assert left_out.isdisjoint(found.measurements)
    assert left_out < found.missing.keys()
    assert "nn.Linear" in found.missing["duplicates"]


def test_two_classes_are_enough():
    found = tallied(IMAGES, classes=2, body=nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    assert sum(found.histogram) == 150
    assert 0 <= found.measurements["pair_coverage"].value <= 1


def test_a_stream_added_bit_by_bit_is_the_stream_added_at_once():
    centres = Watch(teacher(), 3).answer(IMAGES[:9]).features
    whole, parts = (tallied(IMAGES, size, centres=centres) for size in (150, 11))
    assert whole.histogram == parts.histogram
    for name, estimate in whole.measurements.items():
        assert parts.measurements[name].value == pytest.approx(estimate.value, abs=1e-6), name
    assert parts.deciles == pytest.approx(whole.deciles, abs=1e-6)
    assert parts.std == pytest.approx(whole.std, abs=1e-6)


def test_the_order_of_the_images_does_not_matter():
    shuffled = IMAGES[torch.randperm(150, generator=from_seed(4))]
    ours, theirs = tallied(IMAGES), tallied(shuffled)
    for name, estimate in ours.measurements.items():
        assert theirs.measurements[name].value == pytest.approx(estimate.value, abs=1e-6), name


def test_the_same_seed_gives_the_same_report():
    assert tallied(IMAGES) == tallied(IMAGES)


def test_an_interval_holds_its_figure_and_is_as_wide_as_theory_says():
    images = torch.rand(2000, 1, 8, 8, generator=from_seed(5))
    measurements = tallied(images, 500).measurements
    for name, estimate in measurements.items():
        assert estimate.low <= estimate.value <= estimate.high, name
    share = measurements["near_boundary"]
    error = math.sqrt(share.value * (1 - share.value) / 2000)
    assert (share.high - share.low) / 2 == pytest.approx(1.645 * error, rel=0.35)


def test_deciles_and_pixels_are_those_of_the_images():
    found = tallied(IMAGES)
    confidence = Watch(teacher(), 3).answer(IMAGES).logits.softmax(-1).amax(-1)
    assert found.deciles[0] == pytest.approx(confidence.min().item())
    assert found.deciles[5] == pytest.approx(confidence.median().item(), abs=0.01)
    assert found.deciles[10] == pytest.approx(confidence.max().item())
    assert found.mean[0] == pytest.approx(IMAGES.mean().item(), rel=1e-5)
    assert found.std[0] == pytest.approx(IMAGES.std(correction=0).item(), rel=1e-5)
    assert found.measurements["clipped"].value == 0.0
    assert tallied(IMAGES.round()).measurements["clipped"].value == 1.0


def test_a_set_that_holds_every_cluster_covers_them():
    seen = Watch(teacher(), 3).answer(IMAGES).features
    assert seen is not None
    far = torch.cat([seen[:4], seen[:1] + 1e4])
    assert tallied(IMAGES, centres=far).measurements["feature_coverage"].value == pytest.approx(0.8)


def test_more_images_take_no_more_memory_side_by_side():
    total, most = 10_007, 64
    kept = torch.cat([evenly_spaced(i, 7, total, most) for i in range(0, total, 7)])[:total]
    places = kept.nonzero().flatten()
    assert len(places) == most
    assert places.diff().max() - places.diff().min() <= 1
    assert evenly_spaced(0, 20, 20, most).all()


def test_the_teacher_is_left_as_it_was():
    net = teacher()
    before = copy.deepcopy(net.state_dict())
    tally = StreamTally(
        net, classes=3, channels=1, count=8, temperature=1.0, centres=None, rng=from_seed(0)
    )
    tally.add(IMAGES[:8])
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in net.modules())


def test_logits_that_are_no_numbers_are_one_clear_error():
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        body[1].bias[0] = math.nan
    with pytest.raises(ValueError, match="logits are not finite for 64 of 64 images; check its"):
        tallied(IMAGES, body=body)


def test_what_is_no_classifier_is_refused():
    with pytest.raises(ValueError, match="scored by 3 logits per image"):
        tallied(IMAGES, body=nn.Conv2d(1, 3, 3))


def test_images_in_bytes_are_refused():
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got values from 0 to 255"):
        tallied(IMAGES.round() * 255)
