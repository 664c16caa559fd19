"""The words programs are written in: distances by hand, noise by its statistics."""

import math

import pytest
import torch

from doublure.shaders import functions as m
from doublure.shaders.expressions import X, Y, lift
from doublure.shaders.functions import Point
from tests.shaders.formulas import painted

HERE = Point(X, Y)
SALT = lift(12345.0)


def test_coordinates_run_from_minus_one_to_one_with_y_upwards():
    x, y = painted(X, (4, 4)), painted(Y, (4, 4))
    assert x[0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert y[:, 0].tolist() == [0.75, 0.25, -0.25, -0.75]


def test_the_shorter_side_is_two_units_long():
    assert painted(X, (4, 8))[0].tolist() == [-1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75]
    assert painted(Y, (4, 8))[:, 0].tolist() == [0.75, 0.25, -0.25, -0.75]


def test_rotation_keeps_lengths():
    turned = HERE.rotated(0.7)
    torch.testing.assert_close(painted(turned.length()), painted(HERE.length()))


def test_directions_are_angles_in_all_octants():
    wanted = torch.atan2(painted(Y, (32, 32)), painted(X, (32, 32)))
    torch.testing.assert_close(painted(HERE.direction(), (32, 32)), wanted, rtol=0, atol=2e-5)
    # On the axes and at the origin, where a quotient would not be defined.
    axes = [Point(lift(x), lift(y)) for x, y in ((1, 0), (0, 1), (-1, 0), (0, -1), (0, 0))]
    angles = [painted(place.direction(), (1, 1)).item() for place in axes]
    wanted = pytest.approx([0, math.pi / 2, math.pi, -math.pi / 2, 0], abs=2e-5)
    assert angles == wanted


def test_fract_and_triangle_are_periodic():
    torch.testing.assert_close(painted(m.fract(X + 5.0)), painted(X) % 1.0)
    assert painted(m.triangle(X * 0.0 + 0.5)).unique().tolist() == [1.0]
    assert painted(m.triangle(X * 0.0 + 2.0)).unique().tolist() == [0.0]


def test_a_segment_is_as_far_as_its_nearest_point():
    wanted = torch.hypot(painted(X) - painted(X).clamp(0, 0.5), painted(Y)).double()
    distance = painted(m.segment(HERE, Point(lift(0.5), lift(0.0)))).double()
    torch.testing.assert_close(distance, wanted, rtol=0, atol=1e-5)


def test_a_polygon_with_many_corners_is_a_disc():
    disc = painted(HERE.length() - 0.5)
    torch.testing.assert_close(painted(m.polygon(HERE, 0.5, 60)), disc, rtol=0, atol=2e-3)


def test_cover_is_one_inside_and_zero_outside():
    inside = painted(m.cover(HERE.length() - 0.6, 0.01))
    assert set(inside.unique().tolist()) == {0.0, 1.0}
    assert inside[3, 3] == 1.0
    assert inside[0, 0] == 0.0


@pytest.mark.parametrize("noise", [m.value_noise, m.gradient_noise])
def test_noise_is_centred_bounded_and_continuous(noise):
    values = painted(noise(HERE.scaled(40.0), SALT), (512, 512))
    assert values.abs().max() < 0.85
    assert abs(values.mean().item()) < 0.01
    assert 0.08 < values.std().item() < 0.25
    # A pixel is a sixth of a lattice cell.
    assert values.diff(dim=1).abs().max() < 0.45


def test_value_noise_takes_a_lattice_points_value_there():
    # Pixels' centres fall on whole coordinates.
    at_points = painted(m.value_noise(HERE.scaled(4.0).shifted(0.5, 0.5), SALT))
    x, y = HERE.x * 4.0 + 0.5, HERE.y * 4.0 + 0.5
    torch.testing.assert_close(at_points, painted(m.random_at(x, y, SALT) - 0.5))


def test_lattice_hashes_are_uniform_and_unrelated_to_their_neighbours():
    column, row = X * 128.0 - 0.5, Y * 128.0 - 0.5
    values = painted(m.random_at(column, row, SALT), (256, 256))
    counts = torch.histc(values, 16, 0, 1)
    chi_squared = ((counts - 4096) ** 2 / 4096).sum()
    assert chi_squared < 38  # the 0.1 % quantile at 15 degrees of freedom
    for shifted in (values.roll(1, 0), values.roll(1, 1), values.roll((1, 1), (0, 1))):
        assert abs(torch.corrcoef(torch.stack((values.flatten(), shifted.flatten())))[0, 1]) < 0.02
    other = painted(m.random_at(column, row, SALT + 1.0), (256, 256))
    assert abs(torch.corrcoef(torch.stack((values.flatten(), other.flatten())))[0, 1]) < 0.02


def test_voronoi_agrees_with_a_search_through_all_points():
    cell = m.voronoi(HERE.scaled(3.0), SALT, 0.8)
    size = (32, 32)
    places = torch.stack((painted(X * 3.0, size), painted(Y * 3.0, size)), -1).view(-1, 2)
    points = []
    for row in range(-6, 6):
        for column in range(-6, 6):
            key = m.apply("xor_shift_16", m.lattice(X * 0.0 + column, Y * 0.0 + row, SALT))
            jitter = [
                painted(m.apply(f"unit_{half}", key), (1, 1)).item() for half in ("high", "low")
            ]
            points.append((column + 0.5 + 0.8 * jitter[0], row + 0.5 + 0.8 * jitter[1]))
    nearest = torch.cdist(places, torch.tensor(points)).sort(-1).values
    torch.testing.assert_close(
        painted(cell.first, size).flatten(), nearest[:, 0], rtol=0, atol=1e-4
    )
    # The second nearest may lie two cells away, where nobody looks: seldom, and never nearer.
    second = painted(cell.second, size).flatten() - nearest[:, 1]
    assert second.min() > -1e-4
    assert (second > 1e-4).float().mean() < 0.01


def test_a_voronoi_cells_identity_is_constant_over_it():
    cell = m.voronoi(HERE.scaled(2.0), SALT)
    identity = painted(cell.identity, (64, 64))
    assert 8 <= len(identity.unique()) <= 36
    assert identity.min() >= 0
    assert identity.max() < 1


def test_line_noise_knows_no_second_coordinate():
    values = painted(m.line_noise(X * 5.0, SALT))
    assert torch.equal(values, values[:1].expand_as(values))
    assert math.isfinite(values.std().item())
