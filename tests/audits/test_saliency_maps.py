import warnings

import numpy as np
import pytest
import torch
from torch import nn

from doublure.audits import saliency_maps as maps
from doublure.audits.explainers import EXPLAINERS, Lime, Occlusion, Rise
from doublure.audits.saliency_measures import spearman
from doublure.core.optional import reason_absent
from tests.tiny import rng

SIDE = 8


def linear(channels=1):
    weights = torch.randn(channels, SIDE, SIDE, generator=rng(5), dtype=torch.float64)
    return weights, lambda images: (images * weights).sum((1, 2, 3))


def pair(channels=1):
    return torch.rand(2, channels, SIDE, SIDE, generator=rng(6), dtype=torch.float64)


def curved():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 4))
    return net.double().eval()


def test_masks_of_ones_are_the_image_and_of_zeros_the_baseline():
    x, b = pair()
    ends = maps.perturb(x, b, torch.stack([torch.ones_like(x[0]), torch.zeros_like(x[0])]))
    torch.testing.assert_close(ends, torch.stack([x, b]))


def test_occlusion_of_a_linear_score_is_weight_times_distance():
    w, f = linear()
    x, b = pair()
    windows = maps.occlusion_windows((SIDE, SIDE), 1, 1)
    scores = maps.masked_scores(f, x, b, 1 - windows, 7)
    found = maps.occlusion_map(float(f(x[None])), scores, windows)
    torch.testing.assert_close(found, (w * (x - b))[0], atol=1e-12, rtol=0)


def test_windows_cover_every_pixel_and_too_long_a_stride_is_refused():
    assert maps.occlusion_windows((9, 7), 4, 3).sum(0).min() >= 1
    with pytest.raises(ValueError, match="stride must lie in"):
        maps.occlusion_windows((9, 7), 2, 3)


def test_rise_of_a_linear_score_regresses_on_each_pixel():
    w, f = linear()
    x, b = pair()
    # A cell a pixel, so that pixels are independent.
    masks = (torch.rand(20_000, SIDE, SIDE, generator=rng()) < 0.5).double()
    scores = maps.masked_scores(f, x, b, masks, 999)
    exact = (w * (x - b))[0]
    found = maps.rise_map(scores, masks, 0.5, "centred")
    torch.testing.assert_close(found, exact, atol=0.06, rtol=0)
    whole = maps.rise_map(scores, masks, 0.5, "conditional")
    # E[f | M_p = 1] = f(b) + half of the sum of w (x - b) over all, and half of the pixel's own
    expected = float(f(b[None])) + exact / 2 + exact.sum() / 2
    torch.testing.assert_close(whole, expected, atol=0.06, rtol=0)


def test_rise_masks_are_smooth_and_shared_by_seed():
    masks = maps.rise_masks(400, (32, 24), 7, 0.3, rng())
    assert masks.shape == (400, 32, 24)
    assert masks.mean() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(masks, maps.rise_masks(400, (32, 24), 7, 0.3, rng()))
    assert masks.diff(dim=2).abs().max() <= 0.5


def test_lime_of_a_score_linear_in_segments_returns_its_weights():
    true = torch.randn(16, generator=rng(), dtype=torch.float64)
    on = maps.random_segments(400, 16, rng(1))
    found = maps.lime_coefficients(on.double() @ true + 3, on, 0.25, 1e-6)
    torch.testing.assert_close(found, true, atol=1e-5, rtol=0)


def test_integrated_gradients_sum_to_the_difference_of_scores():
    net = curved()
    x, b = pair(3)

    def f(images):
        return net(images).softmax(1)[:, 2]

    found = maps.integrated_gradients(f, x, b, 32, 5)
    gap = (f(x[None]) - f(b[None])).item()
    assert found.sum().item() == pytest.approx(gap, abs=1e-7)


def test_gradients_of_a_linear_score_are_exact_for_both():
    w, f = linear(3)
    x, b = pair(3)
    exact = (w * (x - b)).sum(0)
    torch.testing.assert_close(maps.gradient_times_input(f, x, b), exact)
    torch.testing.assert_close(maps.integrated_gradients(f, x, b, 4, 2), exact)


def test_an_extremal_mask_finds_the_patch_that_the_score_rests_on():
    x, b = torch.ones(1, 16, 16), torch.zeros(1, 16, 16)

    def f(images):
        return images[:, 0, 4:8, 8:12].mean((1, 2))

    (mask,) = maps.extremal_masks(f, x, b, (0.1,), 8, 100)
    inside = mask[4:8, 8:12].mean()
    assert inside > 0.75
    assert mask.mean() == pytest.approx(0.1, abs=0.02)
    assert mask[10:].max() == 0


@pytest.mark.parametrize("name", EXPLAINERS)
def test_no_difference_no_saliency_no_trace_and_no_matter_the_batch(name):
    net = curved().train()
    before = [parameter.requires_grad for parameter in net.parameters()]
    x, b = pair(3)
    explainer = EXPLAINERS[name]()

    def f(images):
        return net(images).softmax(1)[:, 1]

    one, other = (explainer.explain(f, x, b, rng(3), size) for size in (64, 7))
    torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    assert one.shape == (SIDE, SIDE)
    assert one.dtype == torch.float64
    assert torch.equal(one, explainer.explain(f, x, b, rng(3), 64))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert [parameter.requires_grad for parameter in net.parameters()] == before
    if name != "extremal":  # its mask has an area, whatever the image
        assert explainer.explain(f, x, x.clone(), rng(3), 64).std() < 1e-9


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_cost_told_is_the_passes_made(name):
    passes = 0

    def f(images):
        nonlocal passes
        passes += len(images) * (3 if images.requires_grad else 1)
        return images.mean((1, 2, 3))

    explainer = EXPLAINERS[name]()
    x, b = pair()
    explainer.explain(f, x, b, rng(), 50)
    assert passes == explainer.passes((SIDE, SIDE))


def test_variants_differ_in_one_setting():
    assert Rise().variants()["cells 4"] == Rise(cells=4)
    for settings in (Rise(), Lime(), Occlusion()):
        assert all(other != settings for other in settings.variants().values())


def test_two_baselines_disagree_even_on_a_linear_score():
    w, _ = linear()
    x, _ = pair()
    rows = [
        np.asarray((w * (x - b)).flatten())[None]
        for b in (torch.zeros_like(x), torch.full_like(x, 0.5))
    ]
    assert spearman(*rows)[0] < 0.8


@pytest.mark.skipif(reason_absent("captum") is not None, reason="captum is not installed")
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (4, 1), (5, 4)])
def test_occlusion_equals_captum(window, stride):
    from captum.attr import Occlusion as Captum

    net = curved()
    x, b = pair(3)
    windows = maps.occlusion_windows((SIDE, SIDE), window, stride)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs = Captum(net).attribute(
            x[None],
            (3, window, window),
            baselines=b[None],
            target=1,
            strides=(3, stride, stride),
        )
    scores = maps.masked_scores(lambda images: net(images)[:, 1], x, b, 1 - windows, 9)
    ours = maps.occlusion_map(net(x[None])[0, 1].item(), scores, windows)
    torch.testing.assert_close(ours, theirs[0, 0].double(), atol=1e-5, rtol=0)


@pytest.mark.skipif(reason_absent("captum") is not None, reason="captum is not installed")
def test_integrated_gradients_equal_captum():
    from captum.attr import IntegratedGradients as Captum

    net = curved()
    x, b = pair(3)
    theirs = Captum(net).attribute(x[None], b[None], target=1, n_steps=20)
    ours = maps.integrated_gradients(lambda images: net(images)[:, 1], x, b, 20, 6)
    torch.testing.assert_close(ours, theirs[0].sum(0).detach(), atol=1e-5, rtol=0)
