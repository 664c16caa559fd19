import re

import pytest

from doublure.engine.recipe import Recipe
from doublure.nets.references import NetworkRef
from doublure.verbs.prune import prune
from doublure.verbs.train import train


def test_an_option_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    told = "prune() got an unexpected keyword argument 'step'; did you mean 'steps'?"
    with pytest.raises(TypeError, match=re.escape(told)):
        prune("builtin/convnet-4", out=tmp_path / "run", step=3)
    assert not (tmp_path / "run").exists()


def test_training_from_scratch_takes_no_weights_but_those_to_start_from(tmp_path):
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        train("builtin/convnet-4", "builtin/digits", out=tmp_path / "run", weights="w.pt")


def test_a_recipe_is_run_by_its_own_verb(tmp_path):
    recipe = Recipe(verb="distill", student=NetworkRef(ref="builtin/convnet-4"), stages=())
    with pytest.raises(ValueError, match="run it with `doublure distill`"):
        prune(out=tmp_path / "run", recipe=recipe)
