import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from doublure.catalogue import CODEC
from doublure.data.digits import digits
from doublure.data.own_files import RunFolderError
from doublure.engine.fit import fit
from doublure.engine.optimizers import AdamW
from doublure.engine.recipe import RecipeError
from doublure.engine.run_folder import read_metrics
from doublure.engine.run_options import RunOptions
from doublure.engine.schedules import Constant
from doublure.nets.cramer_wold import CramerWoldPlan, latent_generator
from doublure.nets.network import freeze
from doublure.objectives.weighted import Stateless
from doublure.recipe_file import from_toml_as, read_as, to_toml
from doublure.sources.lcw import load_generator
from doublure.tasks.generation import training
from doublure.tasks.generation.cramer_wold import LatentMatching, cramer_wold_distance
from doublure.tasks.generation.recipes import GeneratorRecipe, encoding_settings, lcw
from doublure.tasks.generation.training import (
    CodeStream,
    encode,
    open_images,
)
from doublure.verbs.distill import distill
from doublure.verbs.synthesize import synthesize
from doublure.verbs.train_generator import train_generator
from tests.command import command
from tests.tiny import rng, settings

PLAN = CramerWoldPlan(latent=4, noise=3, width=16, hidden=16)
FILES = {
    *("recipe.toml", "manifest.json", "metrics.jsonl", "log.txt", "checkpoint", "summary.json"),
    *(".doublure", "generator.safetensors", "generator.json", "samples.png"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    pixels, _ = digits("train")
    np.savez(path, x=pixels[:120])
    return str(path)


@pytest.fixture
def recipe(data) -> GeneratorRecipe:
    fit_settings = {"optimizer": AdamW(), "schedule": Constant(), "weight_decay": 0.0}
    fast = settings(steps=8, batch_size=16, learning_rate=1e-2, **fit_settings)
    return GeneratorRecipe(data=data, plan=PLAN, encoding=fast, generating=fast, device="cpu")


class Killed(BaseException):
    pass


class Killer:
    """Ends the run at the given line of its metrics log."""

    def __init__(self, lines: int) -> None:
        self.left = lines

    def __call__(self, steps, line) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


def weights(folder: Path) -> bytes:
    return (folder / "generator.safetensors").read_bytes()


def test_a_run_leaves_a_generator_and_what_is_known_of_it(recipe, tmp_path):
    summary = train_generator(recipe=recipe, out=tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert summary["steps"] == 16
    assert summary["judged_on"] == 32
    for apart in summary["distances"].values():
        names = {"generated", "normal", "gaussian", "interpolated", "training"}
        assert apart.keys() == names
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(line["stage"], line["step"]) for line in lines] == [(0, 4), (0, 8), (1, 4), (1, 8)]
    with Image.open(tmp_path / "run" / "samples.png") as sheet:
        assert (sheet.size, sheet.mode) == ((64, 64), "L")
    generator = load_generator(str(tmp_path / "run"))
    assert generator.plan == PLAN
    assert generator.codes.shape == (88, 4)


def test_the_same_seed_makes_the_same_generator_and_another_seed_another(recipe, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        torch.manual_seed(len(name))
        train_generator(recipe=recipe, seed=seed, out=tmp_path / name)
    assert weights(tmp_path / "one") == weights(tmp_path / "two") != weights(tmp_path / "other")


@pytest.mark.parametrize("lines", [1, 2, 3], ids=["first stage", "between", "second stage"])
def test_a_run_that_was_killed_goes_on_to_the_same_generator(recipe, tmp_path, lines):
    train_generator(recipe=recipe, out=tmp_path / "whole")
    told = {"recipe": recipe, "out": tmp_path / "run", "checkpoint_seconds": 0.0}
    with pytest.raises(Killed):
        train_generator(**told, watch=Killer(lines))
    train_generator(**told, resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 4


def test_an_existing_run_is_neither_replaced_nor_gone_on_with_unasked(recipe, tmp_path):
    train_generator(recipe=recipe, out=tmp_path / "run")
    with pytest.raises(
        RunFolderError, match="resume it with --resume, replace it with --overwrite"
    ):
        train_generator(recipe=recipe, out=tmp_path / "run")
    with pytest.raises(RecipeError, match=r"differs from the one in the folder in plan\.latent"):
        train_generator(recipe=recipe, out=tmp_path / "run", resume=True, set={"plan.latent": "5"})
    train_generator(recipe=recipe, out=tmp_path / "run", overwrite=True, set={"plan.latent": "5"})
    assert load_generator(str(tmp_path / "run")).plan.latent == 5


def test_a_recipe_comes_back_from_its_file_and_runs_again(recipe, tmp_path):
    assert from_toml_as(GeneratorRecipe, to_toml(recipe)) == recipe
    train_generator(recipe=recipe, out=tmp_path / "run", steps=4, lr=0.02)
    stood = read_as(GeneratorRecipe, tmp_path / "run" / "recipe.toml")
    assert (stood.encoding.steps, stood.generating.learning_rate) == (4, 0.02)
    train_generator(recipe=tmp_path / "run" / "recipe.toml", out=tmp_path / "again")
    assert weights(tmp_path / "again") == weights(tmp_path / "run")


def test_a_budget_becomes_steps_of_both_stages(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "steps_within", lambda seconds, timing: 5)
    summary = train_generator(recipe=recipe, out=tmp_path / "run", budget=60.0)
    assert summary["steps"] == 10
    with pytest.raises(RecipeError, match=r"encoding.steps, generating.steps"):
        train_generator(recipe=recipe, out=tmp_path / "run", resume=True)
    train_generator(recipe=recipe, out=tmp_path / "run", resume=True, budget=60.0)


def test_the_published_recipe_goes_by_the_images():
    grey, colour = lcw("digits", (28, 28, 1)), lcw("photographs", (32, 32, 3))
    assert (grey.plan.architecture, grey.plan.latent) == ("dense", 8)
    assert (colour.plan.architecture, colour.plan.latent) == ("convolutional", 48)
    # Behind a plain auto-encoder: codes that are normal already leave nothing to be learned.
    assert (grey.auto_encoder.normality, colour.auto_encoder.normality) == (0.0, 0.0)
    assert (grey.encoding.batch_size, grey.encoding.learning_rate) == (128, 1e-3)
    assert (grey.generating.batch_size, grey.generating.learning_rate) == (256, 2e-3)


def test_every_image_is_encoded_once_by_an_encoder_that_does_not_learn(recipe):
    class Brightness(torch.nn.Module):
        def forward(self, images):
            return {"codes": images.mean((1, 2, 3))[:, None]}

    codes = encode(recipe, freeze(Brightness())).flatten()
    stream = open_images(recipe, "train", 16)
    expected = torch.cat([stream.draw(step, None).images for step in range(6)])[: len(stream)]
    assert len(codes) == len(stream) == 88
    torch.testing.assert_close(codes, expected.mean((1, 2, 3)))


def test_a_latent_generator_learns_codes_that_no_bell_has():
    angles = torch.arange(8) * torch.pi / 4
    ring = torch.stack([angles.cos(), angles.sin()], 1).repeat(60, 1) * 2
    ring += 0.05 * torch.randn(ring.shape, generator=rng())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = latent_generator(CramerWoldPlan(latent=2, noise=2, hidden=48))
    stream = CodeStream(ring, 2, 128, rng(1))
    loss = Stateless(LatentMatching(spread=ring.std().item() / 4))
    fast = replace(encoding_settings(), learning_rate=5e-3, steps=150)
    fit(network, stream, loss, settings=fast, rng=rng(2))
    with torch.no_grad():
        made = network.eval()(torch.randn((400, 2), generator=rng(3)))
    bell = torch.randn((400, 2), generator=rng(4)) @ torch.linalg.cholesky(torch.cov(ring.T))
    apart = [
        cramer_wold_distance(x, ring, 0.02, exact=True, unbiased=True).item() for x in (made, bell)
    ]
    assert apart[0] < apart[1] / 2
    nearest = torch.cdist(made, ring[:8]).argmin(1)
    assert nearest.bincount(minlength=8).min() > 0


def test_the_generator_feeds_synthesize_and_distill(recipe, tmp_path):
    run = str(tmp_path / "run")
    train_generator(recipe=recipe, out=run)
    named = {"set": {"generator": run}, "count": 20, "size": 8, "channels": 1}
    made = synthesize("lcw", out=tmp_path / "set", **named)
    assert made["settings"] == {"kind": "lcw", "generator": run, "codes": "generated"}
    summary = distill(
        "builtin/convnet-4",
        "builtin/convnet-4",
        classes=10,
        size=8,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        transfer=run,
        method="shader-kd",
        without=("matching", "balance", "attack"),
        steps=2,
        batch_size=8,
        audit=False,
        device="cpu",
        out=tmp_path / "student",
    )
    assert summary["agreement_on"].startswith("images of the source lcw, from a disjoint range")
    manifest = json.loads((tmp_path / "student" / "manifest.json").read_text())
    assert run in manifest["inputs"]


def test_the_command_trains_one_and_prints_one_object(data, tmp_path):
    small = ("--set", "plan.width=8", "--set", "plan.hidden=8", "--batch-size", 8, "--steps", 2)
    words = ("train-generator", "lcw", "--data", data, "--out", tmp_path / "run", *small)
    told = command(*words, "--json")
    assert (told.status, json.loads(told.out)["method"]) == (0, "lcw")
    shown = command(*words, "--overwrite")
    assert "samples    " in shown.out
    assert command(*words).reason.endswith("or choose another --out")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("lwc", "--data", "x"), "unknown generator 'lwc'; did you mean 'lcw'"),
        (("lcw",), "missing --data, or --recipe FILE"),
        (("lcw", "--data", "x", "--steps", 2, "--budget", "1m"), "exclude each other"),
    ],
)
def test_bad_usage_is_one_line(words, told, tmp_path):
    answer = command("train-generator", *words, "--out", tmp_path / "run")
    assert answer.status == 2
    assert told in answer.reason


def test_what_cannot_be_learned_from_is_refused_before_anything_is_written(recipe, tmp_path):
    with pytest.raises(ValueError, match="there is no 'nowhere'"):
        train_generator("lcw", "nowhere", out=tmp_path / "run")
    with pytest.raises(ValueError, match="held_out must lie between 0 and 1, got 0"):
        replace(recipe, held_out=0.0)
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(recipe, tmp_path, monkeypatch):
    process_group = training.ProcessGroup(rank=0, world=2)

    class Two:
        def __enter__(self):
            return process_group

        def __exit__(self, *exception):
            pass

    monkeypatch.setattr(training, "process_group", lambda cpu: Two())
    with pytest.raises(ValueError, match="trained by one process, but 2 were launched"):
        training.run(recipe, tmp_path / "run", RunOptions(), CODEC)
