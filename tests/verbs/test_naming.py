import pytest

from doublure.engine.method import MethodInputs
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.objectives.activation_boundaries import ActivationBoundaries
from doublure.objectives.soft_targets import SoftTargets
from doublure.recipe_file import from_toml, to_toml
from doublure.recipes import published
from doublure.sources.noise import Noise
from doublure.verbs.naming import as_network, with_options
from tests import tiny

RECIPE = published(
    "activation-boundary",
    NetworkRef(ref="builtin/convnet-4"),
    NetworkRef(ref="builtin/convnet-3"),
    MethodInputs(contract=tiny.CONTRACT, base=Noise()),
)


def steps_of(steps: int) -> list[int]:
    return [stage.fit.steps for stage in with_options(RECIPE, steps=steps).stages]


def test_boundaries_come_first_and_soft_targets_after_with_all_the_steps_together():
    first, second = RECIPE.stages
    assert isinstance(first.objective, ActivationBoundaries)
    assert isinstance(second.objective, SoftTargets)
    assert first.source == second.source
    assert first.fit.steps * 9 == second.fit.steps
    assert from_toml(to_toml(RECIPE)) == RECIPE


@pytest.mark.parametrize(("steps", "shared"), [(2, [1, 1]), (10, [1, 9]), (205, [20, 185])])
def test_stages_share_the_steps_in_the_recipes_proportion(steps, shared):
    assert steps_of(steps) == shared


def test_fewer_steps_than_stages_are_refused():
    with pytest.raises(ValueError, match="has 2 stages and needs as many steps, got 1"):
        steps_of(1)


def test_a_network_in_another_precision_is_refused_with_the_way_out():
    halved = load("builtin/convnet-4", like=tiny.CONTRACT).half()
    with pytest.raises(
        ValueError, match=r"Network has float16 weights, .* pass network\.float\(\)"
    ):
        as_network(halved, None)
    assert as_network(halved.float(), None) is halved
