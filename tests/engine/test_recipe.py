import dataclasses

import pytest

from doublure import recipe_file
from doublure.core.protocols import InputContract
from doublure.engine.fit import FitSettings
from doublure.engine.method import MethodInputs
from doublure.engine.recipe import Recipe, RecipeError, Stage
from doublure.nets.references import NetworkRef
from doublure.objectives.attention_transfer import AttentionTransfer
from doublure.objectives.fit_nets import FitNets
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import Weighted
from doublure.recipe_file import differing_keys, from_toml, to_toml
from doublure.recipes import METHODS, published
from doublure.sources.augmentation import Augmented
from doublure.sources.fast_meta import FastMeta
from doublure.sources.noise import Noise
from doublure.sources.replay import Replay
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.recipes import supervised

TEACHER, STUDENT = NetworkRef(ref="builtin/resnet20", classes=10), NetworkRef(ref="builtin/resnet8")
CONTRACT = InputContract(size=(32, 32), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, classes=10)
PLAIN = Recipe(
    teacher=TEACHER,
    student=STUDENT,
    stages=(Stage(source=Noise(), objective=SoftTargets(), fit=FitSettings(steps=5)),),
)


def made(method, contract=CONTRACT, **given):
    given["without"] = frozenset(given.get("without", ()))
    return published(method, TEACHER, STUDENT, MethodInputs(contract=contract, **given))


def all_recipes() -> list[Recipe]:
    base = Surrogate(data="images")
    # One takes sentences, and refuses networks for images.
    recipes = [made(name, base=base) for name in METHODS if name != "sequence-kd"]
    summed = Weighted(terms=((0.9, SoftTargets()), (0.1, HardLabels(of="teacher"))))
    stages = (dataclasses.replace(PLAIN.stages[0], objective=summed),)
    return [
        PLAIN,
        *recipes,
        made("shader-kd"),
        supervised(STUDENT, "builtin/digits", CONTRACT),
        dataclasses.replace(PLAIN, stages=stages),
    ]


@pytest.mark.parametrize("recipe", all_recipes(), ids=lambda recipe: recipe.method)
def test_a_recipe_reads_back_as_it_was_written(recipe):
    text = to_toml(recipe)
    assert from_toml(text) == recipe
    assert to_toml(from_toml(text)) == text


def test_the_published_pairing_bears_its_name_and_any_other_is_custom():
    assert made("shader-kd").method == "shader-kd"
    assert made("shader-kd", without=["attack"]).method == "custom"
    assert made("shader-kd", base=Noise()).method == "custom"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "steps = 5",
            "step = 5",
            r"stages\.0\.fit\.step: unknown key 'step'; did you mean 'steps'",
        ),
        ("steps = 5", 'steps = "x"', r"stages\.0\.fit\.steps: Input should be a valid integer"),
        ("steps = 5", "steps = -5", r"stages\.0\.fit: steps must not be negative, got -5"),
        ('kind = "noise"', 'kind = "nois"', r"source\.kind: unknown kind .* did you mean 'noise'"),
        ('verb = "distill"', 'verb = "dance"', r"verb: Input should be 'distill', 'train'"),
        ('ref = "builtin/resnet8"', "", r"student: missing ref"),
        ("seed = 0", "seed = = 0", r"not TOML"),
    ],
)
def test_a_mistake_is_named_by_its_key(before, after, message):
    text = to_toml(PLAIN)
    assert before in text
    with pytest.raises(RecipeError, match=message):
        from_toml(text.replace(before, after, 1))


@pytest.mark.parametrize(
    "key", ["stages.0.fit.steps", "fit.steps", "steps"], ids=["path", "part", "field"]
)
def test_a_field_is_found_by_path_part_or_name(key):
    assert recipe_file.replace_keys(PLAIN, {key: "77"}).stages[0].fit.steps == 77


def test_a_field_of_a_wrapped_part_is_found_by_its_kind():
    recipe = made("shader-kd")
    changed = recipe_file.replace_keys(recipe, {"balanced.pool_size": "999"})
    assert differing_keys(recipe, changed) == [
        key for key in differing_keys(recipe, changed) if key.endswith("pool_size")
    ]
    assert "pool_size = 999" in to_toml(changed)


def test_a_field_of_two_parts_must_be_said_in_full():
    with pytest.raises(RecipeError, match="'mean' is ambiguous; use one of"):
        recipe_file.replace_keys(PLAIN, {"mean": "[0.5]"})


def test_an_unknown_field_is_refused_with_the_nearest():
    with pytest.raises(RecipeError, match=r"unknown key 'learning_rat'; did you mean 'learning_ra"):
        recipe_file.replace_keys(PLAIN, {"learning_rat": "0.1"})


def test_differing_keys_are_full_paths():
    other = recipe_file.replace_keys(PLAIN, {"seed": "3", "distribution": "uniform"})
    assert set(differing_keys(PLAIN, other)) == {"seed", "stages.0.source.distribution"}
    assert differing_keys(PLAIN, other, but=("seed",)) == ["stages.0.source.distribution"]


def test_the_layers_of_one_objective_of_a_sum_are_set_by_its_kind():
    both = Weighted(terms=((1.0, FitNets()), (1.0, AttentionTransfer())))
    recipe = dataclasses.replace(PLAIN, stages=(Stage(source=Noise(), objective=both),))
    changed = recipe_file.replace_keys(recipe, {"fit-nets.layers.find": "last"})
    (_, hints), (_, attention) = changed.stages[0].objective.terms
    assert (hints.layers.find, attention.layers.find) == ("last", "stages")
    with pytest.raises(RecipeError, match=r"'layers\.find' is ambiguous"):
        recipe_file.replace_keys(recipe, {"layers.find": "last"})


def test_fast_meta_moves_images_as_little_as_their_size_allows():
    small = made("fast-meta", dataclasses.replace(CONTRACT, size=(8, 8)))
    pool = small.stages[0].source
    assert isinstance(pool, Replay)
    assert (pool.every, pool.first) == (400, 20)
    assert isinstance(pool.source, FastMeta)
    assert pool.source.shift == 1
    large = made("fast-meta", dataclasses.replace(CONTRACT, size=(32, 32)))
    assert isinstance(large.stages[0].source, Augmented)


@pytest.mark.parametrize("method", ["dfad", "rdskd", "fast-meta"])
def test_a_recipe_without_parts_has_none_to_leave_out(method):
    with pytest.raises(ValueError, match=f"{method} has no part 'attack' to omit"):
        made(method, without=["attack"])
