import json

import pytest
import typer

from doublure import catalogue
from doublure.cli.main import app
from doublure.core.cards import card_of
from doublure.objectives import soft_targets
from doublure.objectives.soft_targets import SoftTargets
from tests.command import command


def test_every_name_is_given_once():
    names = [entry.name for entry in catalogue.METHODS]
    assert sorted(set(names)) == sorted(names)


def test_a_kind_and_its_settings_find_each_other():
    for family, entries in (
        ("source", (*catalogue.SOURCES, *catalogue.WRAPPERS)),
        ("objective", catalogue.OBJECTIVES),
    ):
        for entry in entries:
            assert catalogue.CODEC.settings_of(family, entry.name) is entry.settings
            assert catalogue.CODEC.kind_of(entry.settings) == entry.name


def test_the_card_of_an_objective_is_the_one_of_its_file():
    for entry in catalogue.OBJECTIVES:
        assert entry.settings is not None
        made = object.__new__(entry.settings)
        assert card_of(made) in (entry.card, None)
    assert card_of(SoftTargets()) is soft_targets.CARD
    assert card_of(object()) is None


def test_what_is_no_method_has_no_kind():
    assert catalogue.CODEC.kind_of(int) is None


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown kind of source 'leafs'; did you mean 'leaves'"):
        catalogue.CODEC.settings_of("source", "leafs")


def test_methods_json_has_the_keys_that_scripts_rely_on():
    told = command("methods", "--json")
    assert (told.status, told.err) == (0, "")
    for entry in json.loads(told.out):
        assert entry.keys() == {"name", "paper", "arxiv", "file", "needs", "verb"}


@pytest.mark.parametrize("entry", catalogue.METHODS, ids=lambda entry: entry.name)
def test_the_verb_of_a_method_is_one_the_command_takes(entry):
    verb, *rest = entry.verb.split()
    commands = typer.main.get_command(app).commands
    assert verb in commands
    options = {name for option in commands[verb].params for name in option.opts}
    assert [word for word in rest if word.startswith("--") and word not in options] == []
