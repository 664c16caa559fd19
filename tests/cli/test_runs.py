import pytest
import typer

from doublure.cli.runs import DISTILL, TEACH, TRAIN, exclusive
from doublure.cli.shrinking import RECOVER
from doublure.verbs.run_options import TeachOptions, TrainOptions

# A terminal has its own way to speak, and a run's cadence is not asked of a person.
OF_PYTHON = {"say", "watch", "checkpoint_seconds", "audit"}


@pytest.mark.parametrize(
    ("command", "function"),
    [(TEACH, TeachOptions), (RECOVER, TeachOptions), (TRAIN, TrainOptions)],
)
def test_the_command_and_python_share_the_same_options(command, function):
    assert command.keys() - {"json", "init_from"} == function.__annotations__.keys() - OF_PYTHON


def test_only_what_begins_afresh_can_begin_from_weights():
    assert "init_from" in DISTILL.keys() & TRAIN.keys()
    assert "init_from" not in RECOVER


def test_of_two_options_that_exclude_each_other_both_are_named():
    with pytest.raises(typer.BadParameter, match="--steps and --batch-size exclude each other"):
        exclusive(steps=1, batch_size=2, seed=None)
