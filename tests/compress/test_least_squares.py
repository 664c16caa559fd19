import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests import tiny
from understudy.compress.least_squares import (
    NormalEquations,
    change_map_,
    draw_places,
    input_rows,
)
from understudy.nets.readouts import LinearMap, rows_at


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=tiny.rng(seed), dtype=torch.float64)


def summed(rows: torch.Tensor, residuals: torch.Tensor) -> NormalEquations:
    groups = len(rows)
    sums = NormalEquations.empty(groups, rows.shape[2], residuals.shape[1] // groups)
    for part, wanted in zip(rows.split(7, dim=1), residuals.split(7), strict=True):
        sums.add(part, wanted)
    return sums


def test_one_feature_by_hand():
    rows, wanted = torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[3.0], [-1.0]])
    change = summed(rows, wanted).solve(ridge=1e-12)
    # wanted = 2 u + 1
    torch.testing.assert_close(change[0, :, 0], torch.tensor([2.0, 1.0], dtype=torch.float64))


def test_a_ridge_of_the_mean_square_halves_a_weight_and_leaves_the_constant():
    rows, wanted = torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[3.0], [-1.0]])
    change = summed(rows, wanted).solve(ridge=1.0)
    torch.testing.assert_close(change[0, :, 0], torch.tensor([1.0, 1.0], dtype=torch.float64))


def test_it_is_the_least_squares_of_a_loop_in_float64():
    rows, wanted = drawn(1, 40, 5), drawn(40, 3, seed=1)
    change = summed(rows, wanted).solve(ridge=0.1)
    power = sum(float(value) ** 2 for value in rows.flatten()) / 5
    gradient = torch.zeros(6, 3, dtype=torch.float64)
    for row, goal in zip(rows[0], wanted, strict=True):
        wide = torch.cat((row, torch.ones(1, dtype=torch.float64)))
        gradient += torch.outer(wide, wide @ change[0] - goal)
    gradient[:5] += 0.1 * power * change[0, :5]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)


@given(seed=st.integers(0, 50), ridge=st.floats(1e-6, 10))
def test_the_error_never_grows_and_is_the_one_that_a_pass_would_measure(seed, ridge):
    rows, wanted = drawn(2, 30, 4, seed=seed), drawn(30, 6, seed=seed + 1)
    sums = summed(rows, wanted)
    for constant in (True, False):
        change = sums.solve(ridge, constant=constant)
        after = wanted - torch.cat(
            [F.pad(u, (0, 1), value=1.0) @ c for u, c in zip(rows, change, strict=True)], 1
        )
        torch.testing.assert_close(sums.squares_after(change).flatten(), after.square().sum(0))
        assert float(sums.squares_after(change).sum()) <= float(sums.squares.sum())
        assert constant or not change[:, -1].any()


def test_a_residual_of_zero_changes_nothing():
    change = summed(drawn(1, 20, 3), torch.zeros(20, 2).double()).solve(1e-3)
    assert not change.any()


def test_a_group_that_sees_nothing_but_zeros_changes_its_constant():
    change = summed(torch.zeros(1, 10, 2), torch.ones(10, 1)).solve(1e-3)
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
    given_ = drawn(3, 5, 4) if isinstance(layer, nn.Linear) else drawn(3, 4, 7, 8)
    answer = layer(given_)
    places = draw_places(tuple(answer.shape), 10, tiny.rng())
    rows = input_rows(layer, given_, places)
    groups = len(rows)
    weights = layer.weight.reshape(groups, layer.weight.shape[0] // groups, -1)
    seen = torch.cat([u @ w.T for u, w in zip(rows, weights, strict=True)], 1) + layer.bias
    torch.testing.assert_close(seen, rows_at(answer, places))


def test_places_are_drawn_once_each_and_all_where_there_are_no_more():
    drawn_ = torch.stack(draw_places((2, 5, 3, 3), 12, tiny.rng()))
    assert drawn_.shape == (3, 12)
    assert len(drawn_.unique(dim=1).T) == 12
    assert len(draw_places((2, 5, 3, 3), 99, tiny.rng())[0]) == 18


@pytest.mark.parametrize("groups", [1, 2])
def test_a_changed_map_answers_what_was_solved_and_normalises_its_rows(groups):
    network = nn.Sequential(nn.Conv2d(2, 4, 3, groups=groups), nn.BatchNorm2d(4)).double().eval()
    nn.init.uniform_(network[1].running_var, 0.5, 2, generator=tiny.rng())
    nn.init.normal_(network[1].running_mean, generator=tiny.rng())
    images, linear = drawn(3, 2, 6, 6), LinearMap(layer="0", norm="1")
    answer = network(images)
    places = draw_places(tuple(answer.shape), 99, tiny.rng())
    rows = input_rows(network[0], images, places)
    sums = summed(rows, drawn(48, 4, seed=3))
    change = sums.solve(1e-3)
    change_map_(network, linear, change, sums)
    added = torch.cat(
        [F.pad(u, (0, 1), value=1.0) @ c for u, c in zip(rows, change, strict=True)], 1
    )
    after = network(images)
    torch.testing.assert_close(rows_at(after, places), rows_at(answer, places) + added)
    inner = network[0](images)
    torch.testing.assert_close(network[1].running_mean, inner.mean((0, 2, 3)))
    torch.testing.assert_close(network[1].running_var, inner.var((0, 2, 3), correction=0))
