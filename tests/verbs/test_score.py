import inspect
import json
from dataclasses import replace

import pytest

from doublure import recipe_file
from doublure.audits import transfer_reference
from doublure.audits.transfer_set import COUNT
from doublure.core.protocols import WrappingSource
from doublure.engine.method import MethodInputs
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.objectives.soft_targets import SoftTargets
from doublure.recipes import published
from doublure.sources.augmentation import Augmented
from doublure.sources.deep_inversion import DeepInversion, settings_for
from doublure.sources.flat import Flat
from doublure.sources.leaves import Leaves
from doublure.sources.mixing import Mixed
from doublure.sources.shaders import Shaders
from doublure.verbs.score import score
from tests.command import command
from tests.tiny import CONTRACT, Grey, network

GREY = (0.5,) * 3
REFERENCE = NetworkRef(ref="builtin/convnet-6", mean=GREY, std=GREY, size=(8, 8), classes=3)


@pytest.fixture(scope="module", autouse=True)
def _small_reference():
    with pytest.MonkeyPatch.context() as patch:
        some = tuple(s for s in transfer_reference.FAMILIES if not isinstance(s, Shaders))
        patch.setattr(transfer_reference, "FAMILIES", some)
        patch.setattr(transfer_reference, "_IMAGES", 512)
        yield


def teacher():
    return Network(network(0), CONTRACT)


def leaves_recipe(**changes):
    made = published("shader-kd", REFERENCE, REFERENCE, MethodInputs(contract=CONTRACT))
    objective = SoftTargets(temperature=2.0)
    stage = replace(made.stages[0], source=Augmented(source=Leaves()), objective=objective)
    return replace(made, stages=(stage,), **changes)


def wrappers(source):
    if not isinstance(source, WrappingSource):
        return ()
    return (*wrappers(source.source), type(source).__name__.lower())


def test_a_source_is_scored_raw_and_as_the_default_recipe_feeds_it():
    (card,) = score(teacher(), ["noise"], count=64)
    default = published("shader-kd", REFERENCE, REFERENCE, MethodInputs(contract=CONTRACT)).stages[
        0
    ]
    assert card.name == "noise"
    assert card.wrappers == wrappers(default.source)
    assert card.temperature == default.objective.temperature
    assert card.raw.count == card.shown.count == 64


def test_one_card_for_each_source_in_their_order():
    cards = score(teacher(), ["flat", "noise"], recipe=leaves_recipe(method="mine"), count=64)
    assert [card.name for card in cards] == ["mine", "flat", "noise"]
    assert json.dumps([card.to_json() for card in cards], allow_nan=False)


def test_a_recipe_says_how_every_source_is_fed(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_file.to_toml(leaves_recipe()))
    own, flat = score(teacher(), ["flat"], recipe=file, count=64)
    assert own.wrappers == flat.wrappers == ("augmented",)
    assert own.temperature == flat.temperature == 2.0
    assert flat.raw == score(teacher(), [Flat()], recipe=file, count=64)[1].raw
    assert own.raw != flat.raw


def test_a_recipe_brings_its_own_teacher(tmp_path):
    (card,) = score(recipe=leaves_recipe(), count=64)
    assert card.teacher == "builtin/convnet-6"
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_file.to_toml(leaves_recipe()))
    told = command("score", "--recipe", file, "--count", 64, "--json")
    assert told.status == 0
    assert [card["teacher"] for card in json.loads(told.out)] == ["builtin/convnet-6"]


def test_wrappers_made_in_python_are_left_as_they_are():
    (card,) = score(teacher(), [Mixed(source=Augmented(source=Grey()))], count=64)
    assert card.wrappers == ("augmented", "mixed")


def test_a_source_that_inverts_the_teacher_takes_the_settings_for_its_images(monkeypatch):
    opened = []

    class StopError(Exception):
        pass

    def watched(self, *place):
        opened.append(self)
        raise StopError

    monkeypatch.setattr(DeepInversion, "open", watched)
    with pytest.raises(StopError):
        score(teacher(), ["deep-inversion"], count=64)
    assert opened == [settings_for(CONTRACT)]
    assert opened[0].optimisation.iterations < DeepInversion().optimisation.iterations


def test_images_on_disk_are_a_source():
    (card,) = score(teacher(), ["builtin/digits:train"], recipe=None, count=64)
    assert card.name == "builtin/digits:train"


def test_random_weights_are_said():
    said = []
    score(
        "builtin/convnet-6",
        ["flat"],
        classes=3,
        size=8,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        count=64,
        say=said.append,
    )
    assert any("random" in line for line in said)


def test_nothing_to_score_and_no_teacher_are_refused():
    with pytest.raises(ValueError, match="name it with --transfer or --recipe"):
        score(teacher())
    with pytest.raises(ValueError, match="score needs a teacher"):
        score(None, ["noise"])


def test_an_unknown_source_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        score(teacher(), ["noize"])


def test_the_command_ranks_several_sets_and_predicts_nothing(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_file.to_toml(leaves_recipe()))
    words = ("score", "--recipe", file, "--transfer", "flat", "--count", 64)
    told = command(*words, "--json")
    cards = json.loads(told.out)
    by = {card["ranked_by"]["figure"] for card in cards}
    assert by == {"bn_distance"}
    assert min(card["place"] for card in cards) == 1
    assert {card["predicted"] for card in cards} == {None}
    assert all("none is given above 0.15" in card["not_calibrated"] for card in cards)
    text = command(*words).out
    assert "ranked by bn_distance as fed, lower is better" in text
    assert "no accuracy is predicted: not calibrated here" in " ".join(text.split())


def test_a_score_looks_at_as_many_images_as_the_ranking_was_measured_on():
    assert inspect.signature(score).parameters["count"].default == COUNT
