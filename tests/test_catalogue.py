import json

import pytest
import typer

from doublure import catalogue
from doublure.cli.main import app
from doublure.objectives.fit_nets import FitNets
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.srrl import SRRL
from doublure.objectives.weighted import Weighted
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
            assert catalogue.settings_of(family, entry.name) is entry.settings
            assert catalogue.kind_of(entry.settings) == entry.name


def test_an_objective_on_layers_alone_is_told_from_others():
    hints, soft = FitNets(), SoftTargets()
    assert catalogue.compares_layers_alone(hints)
    assert catalogue.compares_layers_alone(Weighted(terms=((1.0, hints), (2.0, SRRL()))))
    assert not catalogue.compares_layers_alone(soft)
    assert not catalogue.compares_layers_alone(Weighted(terms=((1.0, hints), (1.0, soft))))
    assert not catalogue.compares_layers_alone(object())


def test_what_is_no_method_has_no_kind():
    assert catalogue.kind_of(int) is None


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown kind of source 'leafs'; did you mean 'leaves'"):
        catalogue.settings_of("source", "leafs")


def test_methods_json_has_the_keys_that_scripts_rely_on():
    told = command("methods", "--json")
    assert (told.status, told.err) == (0, "")
    for entry in json.loads(told.out):
        assert entry.keys() == {"name", "paper", "arxiv", "room", "needs", "verb"}


@pytest.mark.parametrize("entry", catalogue.METHODS, ids=lambda entry: entry.name)
def test_the_verb_of_a_method_is_one_the_command_takes(entry):
    verb, *rest = entry.verb.split()
    commands = typer.main.get_command(app).commands
    assert verb in commands
    options = {name for option in commands[verb].params for name in option.opts}
    assert [word for word in rest if word.startswith("--") and word not in options] == []
