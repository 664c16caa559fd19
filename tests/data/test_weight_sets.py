"""Sets of weights are found in whatever training scripts wrap around them."""

import pytest
import torch

from doublure.data.pickle_contents import Placeholder
from doublure.data.weight_sets import find_sets, objects_in


def keys(content: object) -> list[str]:
    return [each.key for each in find_sets(content)]


def some_state(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.full((2, 2), value), "conv.bias": torch.full((2,), value)}


def test_tensors_beside_a_set_make_none_of_their_own():
    assert keys({"state_dict": some_state(), "best": torch.tensor(1.0)}) == ["state_dict"]


def test_an_optimizer_holds_no_weights():
    moments = {0: {"exp_avg": torch.ones(2, 2)}}
    assert keys({"net": some_state(), "opt": {"state": moments, "param_groups": []}}) == ["net"]


def test_running_means_are_no_set_where_there_are_matrices():
    assert keys({"weights": some_state(), "means": {"loss": torch.ones(3)}}) == ["weights"]


def test_several_sets_are_listed_with_their_places():
    content = {"model": {"g": some_state(), "d": some_state()}, "model_ema": some_state()}
    assert keys(content) == ["model.g", "model.d", "model_ema"]
    assert [each.average for each in find_sets(content)] == [False, False, True]


def test_what_lies_between_the_tensors_is_left():
    (found,) = find_sets({**some_state(), "conv._extra_state": b"x"})
    assert (list(found.tensors), list(found.left)) == (list(some_state()), ["conv._extra_state"])


def test_the_attributes_of_an_object_are_searched_like_a_dictionary():
    state = Placeholder("my.TrainState", state={"weights": some_state(), "step": 3})
    assert keys(state) == ["weights"]
    assert keys(Placeholder("my.Slots", state=({"net": some_state()}, {}))) == ["net"]


def test_objects_are_named_once_even_where_they_contain_themselves():
    first, second = Placeholder("a.Loop"), Placeholder("b.Other")
    first.state = {"self": first, "inner": Placeholder("c.Inner")}
    content: dict[str, object] = {"a": first, "b": [second, Placeholder("b.Other")]}
    content["self"] = content
    assert objects_in(content) == ["a.Loop", "b.Other"]


def test_shared_parts_cannot_make_the_search_long():
    shared: dict[str, object] = dict(some_state())
    for _ in range(6):
        shared = {str(i): shared for i in range(300)}
    with pytest.raises(ValueError, match="more than 1000000 entries"):
        find_sets(shared)


def test_a_pickled_network_that_contains_itself_ends():
    module = Placeholder("torch.nn.Sequential")
    module.state = {"_parameters": {}, "_modules": {"a": module, "b": module}}
    with pytest.raises((ValueError, RecursionError)):
        find_sets(module)
