import pytest
import typer

from doublure.cli.runs import exclusive


def test_of_two_options_that_exclude_each_other_both_are_named():
    with pytest.raises(typer.BadParameter, match="--steps and --batch-size exclude each other"):
        exclusive({"steps": 1, "batch_size": 2}, "steps", "batch_size", "seed")
