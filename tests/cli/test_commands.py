import inspect
from typing import Any

import pytest
import typer

import doublure
from doublure.cli import commands, main
from doublure.cli.options import OF_PYTHON, OPTIONS
from doublure.verbs.reference import reference

VERBS = reference()["verbs"]


def options_of(verb: str) -> dict[str, Any]:
    command = typer.main.get_command(main.app)
    audited = verb.removeprefix("audit_")
    for word in (verb,) if audited == verb else ("audit", audited):
        command = command.commands[word.replace("_", "-")]
    return {option.name: option for option in command.params}


@pytest.mark.parametrize("verb", VERBS)
def test_every_parameter_of_a_function_is_an_option_of_its_command(verb):
    declared = {*VERBS[verb]["required"], *VERBS[verb]["optional"]} - OF_PYTHON
    assert options_of(verb).keys() == declared | {"json"}


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_has_the_default_of_the_function_and_is_required_where_it_has_none(verb):
    options = options_of(verb)
    for name in VERBS[verb]["required"]:
        assert options[name].required, name
    for name, parameter in inspect.signature(getattr(doublure, verb)).parameters.items():
        if name not in OF_PYTHON and isinstance(parameter.default, int | float | str):
            assert str(options[name].default) == str(parameter.default), name


def test_every_row_is_of_a_parameter_that_some_function_has():
    declared = {name for said in VERBS.values() for part in said.values() for name in part}
    assert {row.rpartition(".")[2] for row in OPTIONS} - {"json"} <= declared
    for verb, _, name in (row.partition(".") for row in OPTIONS if "." in row):
        assert name in {*VERBS[verb]["required"], *VERBS[verb]["optional"]}, verb


def test_a_new_parameter_becomes_an_option_by_its_row_alone(monkeypatch):
    declared = {"required": ["out"], "optional": {"ratio": 0.25, "labels": None, "set": None}}
    monkeypatch.setitem(commands.REFERENCE["verbs"], "fold", declared)
    app, given = typer.Typer(), {}

    def fold(options: commands.Options, *, json: bool) -> None:
        given.update(options, json=json)

    commands.add_command(app, fold)
    app(["--out", "here", "--set", "a=1"], standalone_mode=False)
    assert str(given.pop("out")) == "here"
    assert given == {"ratio": 0.25, "labels": False, "set": {"a": "1"}, "json": False}
