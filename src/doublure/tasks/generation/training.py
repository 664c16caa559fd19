"""From a generator recipe to a run folder: an auto-encoder, then a generator of its codes.

Two stages, each trained by `fit` with its own checkpoints:
    1  encoder and decoder learn images; the distribution of the codes is free;
    2  both are frozen, every training image is encoded once, and the latent generator learns to
       generate such codes from noise.
The result is evaluated on images that neither stage was trained on.
"""

import contextlib
import dataclasses
import functools
import io
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image
from torch import Tensor, nn

from doublure.core.protocols import Batch, InputContract, Outputs, Split, StreamContext
from doublure.core.seeding import child, child_seed, from_seed
from doublure.data.generator_file import generator_files
from doublure.engine.budget import Lap, steps_within, time_steps
from doublure.engine.codec import Codec
from doublure.engine.dry_run import weights_digest
from doublure.engine.fit import FitResult, FitSettings, fit
from doublure.engine.manifest import run_manifest
from doublure.engine.processes import ProcessGroup, process_group
from doublure.engine.recipe import RecipeError
from doublure.engine.run_folder import RECIPE, SUMMARY, RunFolder, write_json, write_whole
from doublure.engine.run_options import RunOptions, find_device
from doublure.engine.stage_in_folder import train_in_folder
from doublure.nets.cramer_wold import (
    AutoEncoder,
    CramerWoldGenerator,
    latent_generator,
)
from doublure.nets.network import count_parameters, freeze
from doublure.objectives.weighted import Stateless
from doublure.sources.lcw import Codes, draw_codes
from doublure.sources.surrogate import Surrogate, SurrogateStream
from doublure.tasks.generation.cramer_wold import CARD, LatentMatching
from doublure.tasks.generation.nearness import code_distances, image_distances, nearness
from doublure.tasks.generation.recipes import GeneratorRecipe

SAMPLES = "samples.png"
# Number of codes of training images in the file, for its baselines.
_KEPT = 4096
_AT_ONCE = 256
# Numbers of images for the evaluation, and of training images for the nearest neighbours.
_JUDGED, _COMPARED = 1024, 8192
_GRID = 8


def run(recipe: GeneratorRecipe, out: Path, options: RunOptions, codec: Codec) -> dict[str, Any]:
    """Run `recipe` in the folder `out` and return its summary.

    Raises:
        RunFolderError: the folder already exists, or cannot be written.
        RecipeError: `resume` finds another recipe there; the message has the keys.
        ValueError: the data cannot be used; an earlier run is unchanged.
    """
    began = time.perf_counter()
    with process_group(cpu=find_device(recipe.device).type == "cpu") as processes:
        if processes.world > 1:
            raise ValueError(
                f"a generator is trained by one process, but {processes.world} were launched: the "
                "batch as a whole is what its losses compare; raise --batch-size instead"
            )
        with contextlib.closing(RunFolder(out)) as folder:
            return _run(recipe, folder, options, codec, processes, began)


def _run(
    recipe: GeneratorRecipe,
    folder: RunFolder,
    options: RunOptions,
    codec: Codec,
    processes: ProcessGroup,
    began: float,
) -> dict[str, Any]:
    saved = folder.check(resume=options.resume, overwrite=options.overwrite, inputs=[recipe.data])
    if saved:
        stood = codec.read_as(GeneratorRecipe, folder.file(RECIPE))
        recipe = _going_on(recipe, stood, options, codec)
    notes = list(open_images(recipe, "train").notes)
    if options.budget is not None and not saved:
        recipe = _within_budget(recipe, options.budget - (time.perf_counter() - began))
        steps = [stage.steps for stage in (recipe.encoding, recipe.generating)]
        notes.append(f"budget {options.budget:.0f}s: {steps[0]} and {steps[1]} steps")
    folder.begin(overwrite=options.overwrite)
    if not saved:
        write_whole(folder.file(RECIPE), codec.to_toml(recipe))
    say = folder.logging(options.say)
    options = dataclasses.replace(options, say=say)
    for note in notes:
        say(note)
    stage = functools.partial(train_in_folder, folder=folder, options=options, processes=processes)
    say(f"auto-encoder: {recipe.plan.architecture}, codes of {recipe.plan.latent} numbers")
    results = [stage(open_encoding(recipe), 0, recipe.encoding.steps, taught_by="")]
    encoded = freeze(results[0].network)
    say("latent generator: from noise to codes")
    codes = encode(recipe, encoded)
    rests_on = weights_digest(encoded)
    train = open_generating(recipe, codes)
    results.append(stage(train, 1, recipe.generating.steps, taught_by=rests_on))
    made = assemble(recipe, encoded, results[1].network, codes)
    for name, content in generator_files(
        recipe.method, codec.to_table(recipe.plan), made.state_dict()
    ).items():
        write_whole(folder.file(name), content)
    summary = _summarize(recipe, folder, results, made, codes)
    folder.finish()
    return summary


def open_images(recipe: GeneratorRecipe, split: Split, batch_size: int = 1) -> SurrogateStream:
    """Return the images of a recipe in shuffled epochs."""
    plan = recipe.plan
    half = (0.5,) * plan.channels
    contract = InputContract(size=plan.size, channels=plan.channels, mean=half, std=half, classes=1)
    context = StreamContext(
        contract=contract,
        device=find_device(recipe.device),
        batch_size=batch_size,
        steps=recipe.encoding.steps,
        split=split,
    )
    images = Surrogate(data=recipe.data, held_out=recipe.held_out, skip_bad=recipe.skip_bad)
    return images.open(context, None, from_seed(child_seed(recipe.seed, "images")))


def open_encoding(
    recipe: GeneratorRecipe, settings: FitSettings | None = None
) -> Callable[..., FitResult]:
    """Return the first stage, ready to be called with checkpointer and metrics log."""
    settings = settings or recipe.encoding
    network = _seeded(recipe, "auto-encoder", lambda: AutoEncoder(recipe.plan))
    return functools.partial(
        fit,
        network,
        open_images(recipe, "train", settings.batch_size),
        Stateless(recipe.auto_encoder),
        settings=settings,
        rng=from_seed(child_seed(recipe.seed, "stage", 0)),
    )


def encode(recipe: GeneratorRecipe, encoded: nn.Module, split: Split = "train") -> Tensor:
    """Return the codes of every image of a split, in the order of the first epoch."""
    stream = open_images(recipe, split, _AT_ONCE)
    with torch.no_grad():
        parts = [
            encoded(stream.draw(step, None).images)["codes"]
            for step in range(math.ceil(len(stream) / _AT_ONCE))
        ]
    return torch.cat(parts)[: len(stream)]


def open_generating(
    recipe: GeneratorRecipe, codes: Tensor, settings: FitSettings | None = None
) -> Callable[..., FitResult]:
    """Return the second stage, ready to be called with checkpointer and metrics log."""
    settings = settings or recipe.generating
    network = _seeded(recipe, "latent generator", lambda: latent_generator(recipe.plan))
    rng = from_seed(child_seed(recipe.seed, "stage", 1))
    return functools.partial(
        fit,
        network,
        CodeStream(codes, recipe.plan.noise, settings.batch_size, child(rng, "codes")),
        Stateless(LatentMatching(spread=codes.std().item())),
        settings=settings,
        rng=rng,
    )


class CodeStream:
    """Noise for a latent generator, and codes of as many images, drawn with replacement."""

    def __init__(self, codes: Tensor, noise: int, batch_size: int, rng: torch.Generator) -> None:
        self._codes, self._noise, self._batch_size, self._rng = codes, noise, batch_size, rng

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        rng = child(self._rng, step)
        noise = torch.randn((self._batch_size, self._noise), generator=rng)
        picks = torch.randint(len(self._codes), (self._batch_size,), generator=rng)
        return Batch(
            views={"student": noise.to(self._codes.device)},
            teacher=Outputs(output=self._codes[picks.to(self._codes.device)]),
        )

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"a stream of codes has no state, got {sorted(state)}")


def assemble(
    recipe: GeneratorRecipe, encoded: nn.Module, latent: nn.Module, codes: Tensor
) -> CramerWoldGenerator:
    """Return the networks of both stages as one, with some of the codes."""
    kept = codes[:_KEPT]  # in the order of a shuffled epoch, so a sample of all
    made = CramerWoldGenerator(recipe.plan, len(kept)).to(codes.device)
    made.autoencoder.load_state_dict(encoded.state_dict())
    made.latent.load_state_dict(latent.state_dict())
    made.codes.copy_(kept)
    return made.eval()


def _seeded(recipe: GeneratorRecipe, name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """Return a network whose initial weights depend on the recipe's seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(child_seed(recipe.seed, "weights", name))
        return make().to(find_device(recipe.device))


def _within_budget(recipe: GeneratorRecipe, seconds: float) -> GeneratorRecipe:
    """Return the recipe with the steps that fit, with time in proportion to the given steps."""
    network = _seeded(recipe, "auto-encoder", lambda: AutoEncoder(recipe.plan))
    codes = encode(recipe, freeze(network))
    stages: dict[str, Callable[[FitSettings], Callable[..., FitResult]]] = {
        "encoding": lambda settings: open_encoding(recipe, settings),
        "generating": lambda settings: open_generating(recipe, codes, settings),
    }
    asked = {name: getattr(recipe, name) for name in stages}
    whole = sum(settings.steps for settings in asked.values())
    made = {}
    for name, opening in stages.items():

        def train(settings: FitSettings, lap: Lap, opening: Any = opening) -> None:
            opening(settings)(logger=lap)

        timing = time_steps(train, asked[name])
        steps = steps_within(seconds * asked[name].steps / whole, timing)
        made[name] = dataclasses.replace(asked[name], steps=steps)
    return dataclasses.replace(recipe, **made)


def _going_on(
    asked: GeneratorRecipe, saved: GeneratorRecipe, options: RunOptions, codec: Codec
) -> GeneratorRecipe:
    free = (".log_every", ".steps") if options.budget is not None else (".log_every",)
    keys = codec.differing_keys(asked, saved, but=free)
    if keys:
        raise RecipeError(
            f"--resume, but the recipe asked for differs from the one in the folder in "
            f"{', '.join(keys)}; leave the option away, or use another --out"
        )
    return saved


def _summarize(
    recipe: GeneratorRecipe,
    folder: RunFolder,
    results: list[FitResult],
    generator: CramerWoldGenerator,
    codes: Tensor,
) -> dict[str, Any]:
    """Evaluate the generator, write the results into the run's folder, and return the summary."""
    seconds = sum(result.seconds for result in results)
    parts = {"auto_encoder": generator.autoencoder, "latent_generator": generator.latent}
    summary = {
        "verb": recipe.verb,
        "method": recipe.method,
        "paper": CARD.paper,
        "data": recipe.data,
        "steps": sum(result.steps for result in results),
        "seconds": seconds,
        "images_per_second": sum(result.images for result in results) / max(seconds, 1e-9),
        "final_terms": [result.terms for result in results],
        "parameters": {name: count_parameters(part) for name, part in parts.items()},
        "seed": recipe.seed,
        **_judged(recipe, generator, codes),
    }
    write_whole(folder.file(SAMPLES), _sheet(recipe, generator))
    inputs = [recipe.data]
    manifest = run_manifest(
        seeds={"run": recipe.seed}, inputs=inputs, device=codes.device, command=sys.argv
    )
    write_json(folder.file("manifest.json"), manifest)
    write_json(folder.file(SUMMARY), summary)
    return summary


def _judged(
    recipe: GeneratorRecipe, generator: CramerWoldGenerator, codes: Tensor
) -> dict[str, Any]:
    """Return distances to held-out images, and the nearness to the training set."""
    held = open_images(recipe, "held_out", 1)
    count = min(_JUDGED, len(held))
    shown = open_images(recipe, "held_out", count).draw(0, None).images
    train = open_images(recipe, "train", min(_COMPARED, len(codes))).draw(0, None).images
    rng = from_seed(child_seed(recipe.seed, "judged"), device=codes.device)
    with torch.no_grad():
        answered = generator.autoencoder(shown)
        made = {name: draw_codes(name, generator, count, rng) for name in get_args(Codes)}
        images = {name: generator.decode(drawn) for name, drawn in made.items()}
        distances = {
            "codes": code_distances(made | {"training": codes[:count]}, answered["codes"]),
            "images": image_distances(images | {"training": train[:count]}, shown),
        }
        near = nearness(images["generated"], train, shown)
    return {
        "judged_on": count,
        "reconstruction_error": (answered["images"] - shown).square().mean().item(),
        "distances": distances,
        "nearness": near.measurements["ratio"],
        "warnings": [near.summary] if near.verdict == "warn" else [],
    }


def _sheet(recipe: GeneratorRecipe, generator: CramerWoldGenerator) -> bytes:
    """Return a grid of generated images as PNG."""
    rng = from_seed(child_seed(recipe.seed, "samples"), device=generator.codes.device)
    with torch.no_grad():
        images = generator.decode(draw_codes("generated", generator, _GRID**2, rng))
    channels, height, width = images.shape[1:]
    pixels = (images * 255).round().to(torch.uint8).view(_GRID, _GRID, channels, height, width)
    sheet = pixels.permute(0, 3, 1, 4, 2).reshape(_GRID * height, _GRID * width, channels)
    file = io.BytesIO()
    Image.fromarray(sheet.squeeze(-1).cpu().numpy()).save(file, format="PNG")
    return file.getvalue()
