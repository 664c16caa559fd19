"""`train-generator`: a generator of images, from images that may be used only once."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from doublure import recipe_file
from doublure.catalogue import CODEC
from doublure.core.checks import one_of
from doublure.data.natural import natural_shape
from doublure.engine.run_options import RunOptions
from doublure.sources.lcw import METHOD
from doublure.tasks.generation import training
from doublure.tasks.generation.recipes import GeneratorRecipe, lcw

# The published recipes by name.
GENERATORS: dict[str, Callable[..., GeneratorRecipe]] = {METHOD: lcw}


def train_generator(
    method: str = METHOD,
    data: str | None = None,
    *,
    out: str | Path,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    recipe: str | Path | GeneratorRecipe | None = None,
    steps: int | None = None,
    budget: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    set: Mapping[str, str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    checkpoint_seconds: float = 30.0,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> dict[str, Any]:
    """Train a generator of images like `data`, and return the summary of the run in `out`.

    Args:
        data: a folder of images, a SET or .npz, or builtin/digits; labels are not used.
        size: height and width of generated images; by default those of the data.
        channels: 1 or 3; by default those of the data.
        skip_bad: skip unreadable image files instead of raising.
        recipe: a recipe to re-run, in place of data, size and channels.
        steps: steps of each of the two stages.
        budget: seconds for both, in place of steps.
        set: fields of the recipe by key, as texts; see `recipe_file.replace_keys`.
    """
    make = GENERATORS[one_of("generator", method, GENERATORS)]
    if recipe is not None:
        made = (
            recipe
            if isinstance(recipe, GeneratorRecipe)
            else recipe_file.read_as(GeneratorRecipe, Path(recipe))
        )
    elif data is not None:
        height, width, depth = natural_shape(data)
        sides = (size, size) if isinstance(size, int) else size
        made = make(data, (*(sides or (height, width)), channels or depth), skip_bad=skip_bad)
    else:
        raise ValueError("train-generator needs data, or a recipe")
    fit = {"steps": steps, "batch_size": batch_size, "learning_rate": lr}
    told: dict[str, Any] = {name: value for name, value in fit.items() if value is not None}
    whole: dict[str, Any] = {"seed": seed, "device": device}
    made = dataclasses.replace(
        made,
        encoding=dataclasses.replace(made.encoding, **told),
        generating=dataclasses.replace(made.generating, **told),
        **{name: value for name, value in whole.items() if value is not None},
    )
    if set:
        made = recipe_file.replace_keys(made, set)
    options = RunOptions(
        resume=resume,
        overwrite=overwrite,
        budget=budget,
        tensorboard=tensorboard,
        checkpoint_seconds=checkpoint_seconds,
        say=say,
        watch=watch,
    )
    return training.run(made, Path(out), options, CODEC)
