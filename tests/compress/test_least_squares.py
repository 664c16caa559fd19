import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from doublure.compress.least_squares import (
    Rows,
    Solution,
    change_map_,
    draw_places,
    input_rows,
    solve,
)
from doublure.nets.linear_maps import LinearMap
from doublure.nets.readouts import rows_at
from tests import tiny


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=tiny.rng(seed), dtype=torch.float64)


def in_parts(seen: Tensor, wanted: Tensor, answered: Tensor | None = None) -> list[Rows]:
    answered = torch.zeros_like(wanted) if answered is None else answered
    slices = zip(seen.split(7, dim=1), answered.split(7), wanted.split(7), strict=True)
    return [Rows(inputs=u, outputs=z, targets=t) for u, z, t in slices]


def solved(seen: Tensor, wanted: Tensor, ridge: float, **how: int) -> Solution:
    return solve(in_parts(seen, wanted), ridge, **how)


ONE = torch.tensor([[[1.0], [-1.0]]])


def test_one_feature_by_hand():
    # wanted = 2 u + 1
    change = solved(ONE, torch.tensor([[3.0], [-1.0]]), 1e-12).change
    torch.testing.assert_close(change[0, :, 0], torch.tensor([2.0, 1.0], dtype=torch.float64))


def test_a_ridge_of_the_mean_square_halves_a_weight_and_leaves_the_constant():
    # u'u = 2 and the ridge adds as much
    change = solved(ONE, torch.tensor([[3.0], [-1.0]]), 1.0).change
    torch.testing.assert_close(change[0, :, 0], torch.tensor([1.0, 1.0], dtype=torch.float64))


def test_it_is_the_least_squares_of_a_loop_in_float64():
    rows, wanted = drawn(1, 40, 5), drawn(40, 3, seed=1)
    change = solved(rows, wanted, 0.1).change
    power = sum(float(value) ** 2 for value in rows.flatten()) / 5
    gradient = torch.zeros(6, 3, dtype=torch.float64)
    for row, goal in zip(rows[0], wanted, strict=True):
        wide = torch.cat((row, torch.ones(1, dtype=torch.float64)))
        gradient += torch.outer(wide, wide @ change[0] - goal)
    gradient[:5] += 0.1 * power * change[0, :5]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)


@given(seed=st.integers(0, 50), ridge=st.floats(1e-6, 10))
def test_the_error_never_grows_and_is_the_one_that_a_pass_would_measure(seed, ridge):
    rows, wanted, answered = (drawn(*s, seed=seed + i) for i, s in enumerate(SHAPES))
    for constant in (True, False):
        found = solve(in_parts(rows, wanted, answered), ridge, constant=constant)
        whole = Rows(inputs=rows, outputs=answered, targets=wanted)
        off = whole.outputs_after(found.change) - wanted
        assert found.after == pytest.approx(float(off.square().sum()))
        assert found.before == pytest.approx(float((answered - wanted).square().sum()))
        assert found.after <= found.before
        assert constant or not found.change[:, -1].any()


SHAPES = ((2, 30, 4), (30, 6), (30, 6))


@given(seed=st.integers(0, 50))
def test_behind_a_relu_the_one_sided_error_falls_from_round_to_round(seed):
    rows, wanted, answered = (drawn(*s, seed=seed + i) for i, s in enumerate(SHAPES))
    parts = in_parts(rows, wanted, answered)
    errors = [solve(parts, 1e-9, rounds=rounds).after for rounds in (1, 2, 4, 8)]
    assert errors[0] <= solve(parts, 1e-9, rounds=1).before
    assert errors == sorted(errors, reverse=True)


def test_behind_a_relu_the_gradient_of_the_one_sided_error_vanishes():
    rows, wanted = drawn(1, 40, 3), drawn(40, 2, seed=1)
    change = solved(rows, wanted, 1e-9, rounds=400).change[0]
    gradient = torch.zeros(4, 2, dtype=torch.float64)
    for row, goal in zip(rows[0], wanted, strict=True):
        wide = torch.cat((row, torch.ones(1, dtype=torch.float64)))
        for output in range(2):
            z, t = float(wide @ change[:, output]), float(goal[output])
            gradient[:, output] += wide * (z - t if t > 0 else max(z, 0.0))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-5, rtol=0)


def test_behind_a_relu_nothing_is_wrong_where_both_are_below_zero():
    parts = in_parts(ONE, torch.tensor([[2.0], [-5.0]]), torch.tensor([[2.0], [-1.0]]))
    found = solve(parts, 1e-3, rounds=3)
    assert not found.change.any()
    assert found.after == found.before == 0


def test_a_residual_of_zero_changes_nothing():
    assert not solved(drawn(1, 20, 3), torch.zeros(20, 2).double(), 1e-3).change.any()


def test_a_group_that_sees_nothing_but_zeros_changes_its_constant():
    change = solved(torch.zeros(1, 10, 2), torch.ones(10, 1), 1e-3).change
    assert change.flatten().tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 4, (1, 3), padding="same", groups=4, padding_mode="reflect"),
        nn.Linear(4, 6),
    ],
)
def test_rows_are_what_a_layer_sees(layer):
    layer.double()
    shown = drawn(3, 5, 4) if isinstance(layer, nn.Linear) else drawn(3, 4, 7, 8)
    answer = layer(shown)
    places = draw_places(tuple(answer.shape), 10, tiny.rng())
    rows = input_rows(layer, shown, places)
    groups = len(rows)
    weights = layer.weight.reshape(groups, layer.weight.shape[0] // groups, -1)
    seen = torch.cat([u @ w.T for u, w in zip(rows, weights, strict=True)], 1) + layer.bias
    torch.testing.assert_close(seen, rows_at(answer, places))


def test_places_are_drawn_once_each_and_all_where_there_are_no_more():
    places = torch.stack(draw_places((2, 5, 3, 3), 12, tiny.rng()))
    assert places.shape == (3, 12)
    assert len(places.unique(dim=1).T) == 12
    assert len(draw_places((2, 5, 3, 3), 99, tiny.rng())[0]) == 18


@pytest.mark.parametrize("groups", [1, 2])
def test_a_changed_map_answers_what_was_solved_and_normalises_its_rows(groups):
    network = nn.Sequential(nn.Conv2d(2, 4, 3, groups=groups), nn.BatchNorm2d(4)).double().eval()
    nn.init.uniform_(network[1].running_var, 0.5, 2, generator=tiny.rng())
    nn.init.normal_(network[1].running_mean, generator=tiny.rng())
    images = drawn(3, 2, 6, 6)
    answer = network(images)
    places = draw_places(tuple(answer.shape), 99, tiny.rng())
    rows = Rows(
        inputs=input_rows(network[0], images, places),
        outputs=rows_at(answer, places),
        targets=drawn(48, 4, seed=3),
    )
    found = solve([rows], 1e-3)
    change_map_(network, LinearMap(layer="0", norm="1"), found)
    after = network(images)
    torch.testing.assert_close(rows_at(after, places), rows.outputs_after(found.change))
    inner = network[0](images)
    torch.testing.assert_close(network[1].running_mean, inner.mean((0, 2, 3)))
    torch.testing.assert_close(network[1].running_var, inner.var((0, 2, 3), correction=0))
