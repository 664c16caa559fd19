import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from doublure.core.protocols import InputContract
from doublure.core.seeding import from_seed
from doublure.sources import leaves
from doublure.sources.leaves import (
    SHAPES,
    SMALLEST_RADIUS,
    Leaves,
    corner_gaps,
    dead_leaves,
    half_planes,
    radius_at,
    radius_cdf,
)
from tests.tiny import context, rng

TURN = 2 * math.pi


def test_ten_thousand_radii_follow_the_papers_density():
    radii = radius_at(torch.rand(10_000, generator=from_seed(0), dtype=torch.float64))

    def cdf(r):  # the integral of r^-3 - 1 from 0.03, by hand
        mass = (SMALLEST_RADIUS**-2 - r**-2) / 2 - (r - SMALLEST_RADIUS)
        return mass / ((SMALLEST_RADIUS**-2 - 1) / 2 - (1 - SMALLEST_RADIUS))

    assert stats.kstest(radii.numpy(), cdf).pvalue > 0.05


def test_the_table_of_radii_inverts_their_distribution():
    shares = torch.linspace(0, 1, 1001, dtype=torch.float64)
    radii = radius_at(shares)
    assert radii[0].item() == pytest.approx(SMALLEST_RADIUS)
    assert radii[-1].item() == pytest.approx(1.0)
    torch.testing.assert_close(radius_cdf(radii), shares, atol=3e-4, rtol=0)


def test_corners_of_each_kind_by_hand():
    uniforms = torch.tensor([[0.125, 0.1, 0.2, 0.3, 0.4, 0.5]]).T.repeat(1, len(SHAPES))
    start, gaps = corner_gaps(torch.arange(len(SHAPES)), uniforms)
    sides = dict(zip(SHAPES, gaps.T, strict=True))
    first = dict(zip(SHAPES, start, strict=True))
    quarter = torch.full((4,), TURN / 4)
    torch.testing.assert_close(sides["circle"], torch.zeros(4))
    torch.testing.assert_close(sides["square"], quarter)
    torch.testing.assert_close(sides["turned square"], quarter)
    assert first["square"].item() == pytest.approx(TURN / 8)
    assert first["turned square"].item() == pytest.approx(TURN / 8)  # an eighth was drawn
    # The slope of the diagonal is half of a right angle: this rectangle is a square.
    torch.testing.assert_close(sides["rectangle"], quarter)
    assert first["rectangle"].item() == pytest.approx(-TURN / 8)
    assert sides["triangle"][3] == 0
    assert sides["triangle"].sum().item() == pytest.approx(TURN)
    assert sides["quadrilateral"].sum().item() == pytest.approx(TURN)


def test_gaps_of_a_quadrilateral_are_those_of_uniform_points_on_a_circle():
    uniforms = torch.rand((6, 5000), generator=from_seed(1))
    _, gaps = corner_gaps(torch.full((5000,), SHAPES.index("quadrilateral")), uniforms)
    # P(a gap of n uniform points exceeds g turns) = (1 - g)^(n - 1)
    result = stats.kstest(gaps[2].numpy() / TURN, lambda g: 1 - (1 - g) ** 3)
    assert result.pvalue > 0.05


def test_half_planes_of_a_square_hold_its_inside_alone():
    cos, sin, reach = half_planes(torch.tensor([TURN / 8]), torch.full((4, 1), TURN / 4))
    points = torch.tensor([[0.0, 0.0], [0.7, 0.7], [0.71, 0.71], [0.8, 0.0], [-0.7, 0.3]])
    inside = (cos[:, 0] * points[:, :1] + sin[:, 0] * points[:, 1:] <= reach[:, 0]).all(1)
    assert inside.tolist() == [True, True, False, False, True]  # its half side is 0.7071


def test_every_pixel_is_painted():
    images = dead_leaves(32, (32, 32), 3, 5000, from_seed(0))
    assert images.shape == (32, 3, 32, 32)
    assert (images.sum(1) > 0).all()
    assert images.min() >= 0
    assert images.max() < 1


def test_an_image_is_made_of_few_colours_each_covering_a_patch():
    image = dead_leaves(1, (32, 32), 3, 5000, from_seed(0))[0].flatten(1).T
    colours, counts = image.unique(dim=0, return_counts=True)
    assert 20 < len(colours) < 700
    assert counts.max() > 20


def test_a_cap_on_the_shapes_leaves_pixels_black():
    images = dead_leaves(4, (32, 32), 3, 1, from_seed(3))
    colours = [len(image.flatten(1).T.unique(dim=0)) for image in images]
    assert max(colours) == 2  # one shape before black
    assert (images.sum(1) == 0).any()


def test_shapes_are_painted_as_a_slow_painter_would(monkeypatch):
    """Lay the same shapes one by one, topmost first, each pixel tested on its own."""
    num_shapes = 40
    drawn = []
    draw = leaves._Canvas._draw
    monkeypatch.setattr(leaves, "_PAIRS_PER_ROUND", num_shapes * 64)
    monkeypatch.setattr(
        leaves._Canvas, "_draw", lambda *args: drawn.append(draw(*args)) or drawn[-1]
    )
    image = dead_leaves(1, (8, 8), 3, num_shapes, from_seed(5))[0]
    (shapes,) = drawn
    expected = torch.zeros(3, 8, 8)
    for row in range(8):
        for column in range(8):
            for i in range(num_shapes):
                radius = shapes.radius[0, i].item()
                across = ((column + 0.5) / 8 - shapes.x[0, i].item()) / radius
                down = ((row + 0.5) / 8 - shapes.y[0, i].item()) / radius
                cos, sin, reach = shapes.sides[..., i]
                inside = across**2 + down**2 <= 1 and bool(
                    (cos * across + sin * down <= reach).all()
                )
                if inside:
                    expected[:, row, column] = shapes.colours[i]
                    break
    assert torch.equal(image, expected)


def test_images_have_any_shape_and_number_of_channels():
    grey = InputContract(size=(8, 20), channels=1, mean=(0.5,), std=(0.5,), classes=3)
    stream = Leaves().open(replace(context(), contract=grey), None, rng())
    images = stream.draw(0, None).images
    assert images.shape == (8, 1, 8, 20)
    assert (images > 0).all()


def test_leaves_are_as_likely_at_one_side_as_at_the_other():
    images = dead_leaves(400, (8, 16), 1, 5000, from_seed(0))
    edges = (images[..., 1:] != images[..., :-1]).float().mean((0, 1, 2))
    torch.testing.assert_close(edges, edges.flip(0), atol=0.03, rtol=0)


def test_memory_is_bounded_by_working_in_groups(monkeypatch):
    monkeypatch.setattr(leaves, "_PAIRS_IN_MEMORY", 2 * 64 * 16)
    images = dead_leaves(5, (8, 8), 3, 5000, from_seed(0))
    assert images.shape == (5, 3, 8, 8)
    assert (images.sum(1) > 0).all()


def test_no_shapes_at_all_are_refused():
    with pytest.raises(ValueError, match="most_shapes must be positive, got 0"):
        Leaves(most_shapes=0)
