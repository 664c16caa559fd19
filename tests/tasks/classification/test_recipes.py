import pytest

from doublure.engine.method import MethodInputs
from doublure.nets.references import NetworkRef
from doublure.objectives.hard_labels import HardLabels
from doublure.objectives.truncated_targets import TruncatedTargets
from doublure.recipe_file import from_toml, to_toml
from doublure.recipes import published
from doublure.sources.adversarial import Adversarial
from doublure.sources.augmentation import Augmented
from doublure.sources.augmenting import AUGMENTERS, augmented
from doublure.sources.autoaugment import AutoAugmented
from doublure.sources.mixing import Mixed
from doublure.sources.noise import Noise
from doublure.tasks.classification.recipes import supervised
from doublure.verbs.distill import distill
from tests import tiny

NET = NetworkRef(ref="builtin/convnet-4")


@pytest.mark.parametrize("name", AUGMENTERS)
def test_training_takes_every_augmentation_and_keeps_it_in_its_recipe(name):
    recipe = supervised(NET, "builtin/digits", tiny.CONTRACT, augment=name)
    assert from_toml(to_toml(recipe)) == recipe
    assert isinstance(
        recipe.stages[0].source, AutoAugmented if name == "autoaugment" else Augmented
    )


def test_grey_images_are_not_mirrored():
    recipe = supervised(NET, "builtin/digits", tiny.CONTRACT, augment="randaugment")
    assert recipe.stages[0].source.augmentation.flip == 0
    assert recipe.stages[0].source.augmentation.num_operations == 2


def test_an_augmentation_takes_the_place_of_the_one_that_is_there():
    source = Adversarial(source=Mixed(source=Augmented(source=Noise())))
    made = augmented(source, "autoaugment", tiny.CONTRACT)
    assert isinstance(made, Adversarial)
    assert isinstance(made.source, Mixed)
    assert isinstance(made.source.source, AutoAugmented)
    assert made.source.source.source.source == Noise()
    assert augmented(made, "mild", tiny.CONTRACT) == augmented(source, "mild", tiny.CONTRACT)


def test_labels_are_repaired_by_half_the_weight_of_the_likeliest_classes():
    recipe = published(
        "autoaugment-kd", NET, NET, MethodInputs(contract=tiny.CONTRACT, base=Noise())
    )
    terms = recipe.stages[0].objective.terms
    assert [(weight, type(term)) for weight, term in terms] == [
        (1.0, HardLabels),
        (0.5, TruncatedTargets),
    ]
    assert from_toml(to_toml(recipe)) == recipe


def test_repair_without_labels_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"needs labels; .*--labels"):
        distill(
            "builtin/convnet-4",
            "builtin/convnet-4",
            out=tmp_path / "run",
            method="autoaugment-kd",
            transfer="builtin/digits",
            classes=10,
        )
