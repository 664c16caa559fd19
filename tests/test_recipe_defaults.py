"""Golden values of the published recipes and objectives: a default that moves fails here.

One line a field that decides what a method is. Which values are the paper's and which are ours, the
page of each method says.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import pytest

from doublure import catalogue
from doublure.core.protocols import InputContract
from doublure.engine.method import MethodInputs
from doublure.engine.recipe import ModelTransform, Recipe
from doublure.nets.references import NetworkRef
from doublure.recipe_file import to_table
from doublure.recipes import METHODS, published, smaller
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.recipes import supervised
from doublure.tasks.translation.contract import MARKS, TextContract
from doublure.tasks.translation.recipes import supervised_translation
from doublure.tasks.translation.sentences import Sentences
from tests.methods import defaults

NETWORK = NetworkRef(ref="builtin/resnet8")
CONTRACT = InputContract(size=(32, 32), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, classes=10)
TEXT = TextContract(languages=("de", "en"), source=MARKS, target=MARKS)
WORKING = ("identity", "rotate", "shear_x", "shear_y", "translate_x", "translate_y")
COLOUR = ("brightness", "contrast", "saturation", "autocontrast", "equalize", "posterize")
OPERATIONS = [*WORKING, *COLOUR, "solarize", "sharpness"]

# Every field of a recipe is "KIND.FIELD", of parts that have no kind "KIND.PART.FIELD"; of recipes
# in several stages the stage's number stands before it.
Golden = dict[str, Any]

SGD: Golden = {
    "fit.steps": 10_000,
    "fit.batch_size": 256,
    "fit.learning_rate": 0.1,
    "sgd.momentum": 0.9,
    "sgd.nesterov": True,
    "fit.weight_decay": 5e-4,
    "cosine.warmup": 0.05,
}
PLAIN_SGD: Golden = SGD | {"sgd.nesterov": False, "cosine.warmup": 0.0}
ADAMW_OF_TEXT: Golden = {
    "fit.batch_size": 64,
    "adamw.betas": [0.9, 0.999],
    "fit.learning_rate": 1e-3,
    "fit.weight_decay": 0.01,
    "cosine.warmup": 0.1,
    "fit.gradient_clip": 1.0,
}
MILD: Golden = {
    "augmented.augmentation.crop_area": [1.0, 1.0],
    "augmented.augmentation.shift": 4,
    "augmented.augmentation.flip": 0.5,
    "augmented.augmentation.turn": 0.0,
    "augmented.augmentation.num_operations": 0,
    "augmented.augmentation.padding": "zeros",
}
STANDARD: Golden = {
    "augmented.augmentation.crop_area": [0.25, 1.0],
    "augmented.augmentation.crop_ratio": [0.75, pytest.approx(4 / 3)],
    "augmented.augmentation.shift": 0,
    "augmented.augmentation.flip": 0.5,
    "augmented.augmentation.turn": 0.0,
    "augmented.augmentation.num_operations": 2,
    "augmented.augmentation.magnitude": 9.0,
    "augmented.augmentation.spread": 0.0,
    "augmented.augmentation.operations": OPERATIONS,
    "augmented.augmentation.padding": "reflection",
    "mixed.blend": "mixup",
    "mixed.share": 1.0,
}
SHADERS: Golden = STANDARD | {
    "augmented.augmentation.turn": 30.0,
    "augmented.augmentation.num_operations": 4,
    "adversarial.share": 0.5,
    "adversarial.reuse": 4.0,
    "adversarial.every": 16,
    "adversarial.rounds": 4,
    "adversarial.attack.step_size": 0.5,
    "adversarial.attack.num_steps": 20,
    "adversarial.attack.grow": 1.1,
    "adversarial.attack.shrink": 0.5,
    "adversarial.attack.bisections": 0,
    "balanced.pool_size": 50_000,
    "balanced.least_showings": 16,
    "balanced.chunk": 512,
    "balanced.fill_every": 2,
    "balanced.max_draws_factor": 2.0,
    "balanced.attack_fill": True,
    "balanced.attacks_per_chunk": 128,
    "balanced.even_sampling": True,
    "balanced.attack.step_size": 0.5,
    "balanced.attack.num_steps": 20,
    "matched.spread": 0.25,
    "shaders.num_programs": 1089,
    "shaders.supersample": 2,
    "shaders.time_range": [0.1, 10.0],
    "shaders.instances": 8,
}
INVERSION: Golden = {
    "replay.every": 50,
    "replay.first": 4,
    "replay.capacity": 256_000,
    "deep-inversion.cross_entropy": 1.0,
    "deep-inversion.features": 10.0,
    "deep-inversion.first_layer_multiplier": 1.0,
    "deep-inversion.total_variation": 2.5e-5,
    "deep-inversion.total_variation_l1": 0.0,
    "deep-inversion.l2": 0.0,
    "deep-inversion.competition": 0.0,
    "deep-inversion.patches": 0.0,
    "deep-inversion.temperature": 3.0,
    "deep-inversion.official": False,
    "deep-inversion.labels": "balanced",
    "deep-inversion.optimisation.iterations": 2000,
    "deep-inversion.optimisation.learning_rate": 0.05,
    "deep-inversion.optimisation.betas": [0.9, 0.999],
    "deep-inversion.optimisation.schedule": "constant",
    "deep-inversion.optimisation.jitter": 2,
    "deep-inversion.optimisation.flip": 0.0,
    "deep-inversion.optimisation.clamp": False,
    "deep-inversion.optimisation.coarse_iterations": 0,
    "soft-targets.temperature": 3.0,
}
GENERATOR: Golden = {
    "generator.shape": "upsampling",
    "generator.head": "standard",
    "generator.latent": 256,
    "generator.width": 64,
    "generator.bn_eps": 1e-5,
    "generator.start": "he",
}


def generator_of(kind: str, **other: Any) -> Golden:
    values = GENERATOR | {f"generator.{name}": value for name, value in other.items()}
    return {f"{kind}.{name}": value for name, value in values.items()}


def stage(number: int, golden: Golden) -> Golden:
    return {f"{number}: {name}": value for name, value in golden.items()}


RECIPES: Mapping[str, Golden] = {
    "shader-kd": SGD | SHADERS | {"soft-targets.temperature": 20.0},
    "surrogate-kd": SGD | STANDARD | {"soft-targets.temperature": 2.0},
    "activation-boundary": {
        **stage(0, SGD | SHADERS | {"fit.steps": 1000}),
        **stage(
            0,
            {
                "activation-boundaries.weight": 0.003,
                "activation-boundaries.margin": 1.0,
                "activation-boundaries.reduction": "sum",
                "activation-boundaries.layers.find": "stages",
            },
        ),
        **stage(1, SGD | SHADERS | {"fit.steps": 9000, "soft-targets.temperature": 3.0}),
    },
    "deep-inversion": SGD | INVERSION,
    "adaptive-deep-inversion": SGD | INVERSION | {"deep-inversion.competition": 10.0},
    "dfad": {
        **PLAIN_SGD,
        **generator_of("dfad"),
        "dfad.imitation_steps": 5,
        "dfad.generator_steps": 1,
        "dfad.learning_rate": 1e-3,
        "dfad.milestones": [0.2, 0.4],
        "dfad.decay": 0.1,
        "dfad.loss": "auto",
        "dfad.student_evaluates": False,
        "fit.precision": "float32",
    },
    "rdskd": {
        **generator_of("rdskd", latent=1000),
        "rdskd.generator_steps": 2400,
        "rdskd.draws_per_step": 50,
        "rdskd.generator_batch": 512,
        "rdskd.learning_rate": 1e-3,
        "rdskd.combination": "exponential",
        "rdskd.authenticity": 1.0,
        "rdskd.class_diversity": 1.0,
        "rdskd.sample_diversity": 1.0,
        "rdskd.reference": "epoch",
        "rdskd.epoch": 120,
        "rdskd.pairing": "halves",
        "soft-targets.temperature": 10.0,
        "fit.steps": 10_000,
        "fit.batch_size": 512,
        "adamw.betas": [0.9, 0.999],
        "fit.learning_rate": 2e-3,
        "fit.weight_decay": 0.0,
        "cosine.warmup": 0.0,
    },
    "fast-meta": {
        **PLAIN_SGD,
        **MILD,
        **generator_of("fast-meta", head="sigmoid"),
        "replay.every": 400,
        "replay.first": 20,
        "fast-meta.inner_steps": 5,
        "fast-meta.learning_rate": 0.003,
        "fast-meta.code_learning_rate": 0.01,
        "fast-meta.mode": "maml",
        "fast-meta.batchnorm": 10.0,
        "fast-meta.one_hot": 0.5,
        "fast-meta.adversarial": 1.33,
        "fast-meta.momentum": 0.9,
        "fast-meta.warm_up": 20,
        "fast-meta.renew_every": 140,
        "fast-meta.renew": "first",
        "fast-meta.contrast": 0.0,
        "fast-meta.noisy_layer": False,
        "fast-meta.shift": 4,
        "fast-meta.flip": 0.5,
        "soft-targets.temperature": 20.0,
        "fit.learning_rate": 0.2,
        "fit.weight_decay": 1e-4,
    },
    "autoaugment-kd": {
        **SGD,
        **MILD,
        "auto-augmented.policy": "cifar10",
        "auto-augmented.hole": 0.5,
        "weighted.hard-labels": 1.0,
        "weighted.truncated-targets": 0.5,
        "hard-labels.label_smoothing": 0.0,
        "hard-labels.of": "batch",
        "truncated-targets.num_kept": 5,
        "truncated-targets.temperature": 1.0,
        "truncated-targets.truncation": "renormalised",
        "truncated-targets.direction": "forward",
    },
    "sequence-kd": {
        **ADAMW_OF_TEXT,
        "on-policy.share": 0.0,
        "sequence-level.share": 1.0,
        "hard-labels.label_smoothing": 0.0,
    },
    "supervised": SGD | MILD | {"hard-labels.label_smoothing": 0.0},
    "supervised translation": ADAMW_OF_TEXT | {"hard-labels.label_smoothing": 0.1},
    "prune and quantize": {
        **SGD,
        **SHADERS,
        "fit.steps": 300,
        "fit.learning_rate": pytest.approx(0.01),
        "fit.gradient_clip": 1.0,
        "fit.precision": "float32",
        "soft-targets.temperature": 20.0,
        "rules": ["frozen-batch-norm"],
    },
}


def recipe_of(name: str) -> Recipe:
    if name == "supervised":
        return supervised(NETWORK, "images", CONTRACT)
    if name == "supervised translation":
        return supervised_translation(NETWORK, "text")
    if name == "prune and quantize":
        rounding = catalogue.CODEC.settings_of("transform", "post-training-quantization")()
        return smaller(
            "quantize", NETWORK, CONTRACT, [ModelTransform(transform=rounding)], steps=300
        )
    needs = METHODS[name].needs
    text = needs == "sentences"
    base = Sentences(data="text") if text else Surrogate(data="images")
    given = MethodInputs(
        contract=TEXT if text else CONTRACT, base=None if needs == "nothing" else base
    )
    return published(name, NETWORK, NETWORK, given)


def flat(part: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a part of a recipe, and of the parts in it."""
    kind = part.get("kind", kind)
    for name, value in part.items():
        if name == "terms":
            for weight, term in value:
                yield f"{kind}.{term['kind']}", weight
                yield from flat(term, kind)
        elif isinstance(value, Mapping):
            yield from flat(value, f"{kind}.{name}")
        else:
            yield f"{kind}.{name}", value


def fields_of(recipe: Recipe) -> Golden:
    """Return every field of the stages of a recipe by the names of the table."""
    stages = to_table(recipe)["stages"]
    found: Golden = {}
    for number, table in enumerate(stages):
        before = f"{number}: " if len(stages) > 1 else ""
        parts = (flat(table[part], part) for part in ("source", "objective", "fit"))
        found |= {before + name: value for part in parts for name, value in part}
        found[before + "rules"] = [rule["kind"] for rule in table["rules"]]
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_keeps_its_defaults(name):
    found = fields_of(recipe_of(name))
    assert {field: found.get(field, "not there") for field in RECIPES[name]} == RECIPES[name]


def test_every_method_has_golden_values():
    assert set(METHODS) - {"auto"} <= set(RECIPES)


OBJECTIVES = [entry for entry in catalogue.OBJECTIVES if entry.name != "weighted"]


@pytest.mark.parametrize("entry", OBJECTIVES, ids=lambda entry: entry.name)
def test_an_objective_keeps_its_defaults(entry):
    objective, golden = entry.settings(), defaults(entry)
    found = {field.name: getattr(objective, field.name) for field in fields(objective)}
    if "layers" in found:
        found["find"] = found["layers"].find
    assert {field: found.get(field, "not there") for field in golden} == golden


@pytest.mark.parametrize("entry", OBJECTIVES, ids=lambda entry: entry.name)
def test_every_weight_and_temperature_of_an_objective_has_a_golden_value(entry):
    numbers = {field.name for field in fields(entry.settings) if isinstance(field.default, float)}
    assert numbers <= set(defaults(entry)), f"write them into DEFAULTS of the test of {entry.name}"
