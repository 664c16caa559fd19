"""A student that is several networks: members made by stages, in one artefact."""

import math
from dataclasses import replace

import onnxruntime
import pytest
import torch

from doublure.engine.fit import FitSettings
from doublure.engine.model_transform import ensemble_of
from doublure.engine.recipe import Recipe, Stage
from doublure.nets.ensemble import Ensemble
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.networks import load, save
from doublure.objectives.soft_targets import SoftTargets
from doublure.sources.noise import Noise
from doublure.verbs.distill import distill
from doublure.verbs.export import export
from tests import tiny

TEACHER = NetworkRef(
    ref="builtin/convnet-4", size=(8, 8), channels=1, classes=3, mean=(0.5,), std=(0.25,)
)
STAGE = Stage(
    source=Noise(),
    objective=SoftTargets(),
    fit=FitSettings(steps=4, batch_size=8, log_every=1),
)
RECIPE = Recipe(
    teacher=TEACHER,
    student=NetworkRef(ref="builtin/convnet-3"),
    stages=(STAGE, replace(STAGE, member=True), replace(STAGE, member=True)),
)


class KilledError(Exception):
    pass


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=tiny.rng())


def network(seed: int) -> Network:
    made = load(replace(TEACHER, ref="builtin/convnet-3"), rng=torch.Generator().manual_seed(seed))
    return made.eval()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    distill(recipe=RECIPE, out=out, audit=False)
    return out


def test_the_output_is_the_logarithm_of_the_mean_probability():
    members = [network(seed) for seed in range(3)]
    with torch.no_grad():
        expected = torch.stack([m(images()).softmax(1) for m in members]).mean(0).log()
        torch.testing.assert_close(Ensemble(members)(images()), expected)
        maps = [torch.nn.Conv2d(1, 4, 1) for _ in range(2)]
        expected = torch.stack([m(images()).softmax(1) for m in maps]).mean(0).log()
        torch.testing.assert_close(Ensemble(maps)(images()), expected)


def test_a_probability_too_small_for_float32_is_kept():
    logits = torch.tensor([[0.0, -200.0]])
    answers = Ensemble([torch.nn.Identity(), torch.nn.Identity()])(logits)
    torch.testing.assert_close(answers, torch.tensor([[0.0, -200.0]]))


def test_stages_make_members_and_the_last_goes_on_from_the_one_before(finished):
    made = load(str(finished)).eval()
    assert isinstance(made.body, Ensemble)
    first, second = made.body.members
    assert not tiny.same_weights(first, second)
    shorter = replace(RECIPE, stages=RECIPE.stages[:2])
    alone = distill(recipe=shorter, out=finished.parent / "alone", audit=False)
    assert alone["student_parameters"] * 2 == sum(p.numel() for p in made.parameters())
    assert tiny.same_weights(load(str(finished.parent / "alone")).body, first)


def test_saved_and_loaded_it_answers_the_same(tmp_path):
    whole = ensemble_of([network(0), network(1)])
    save(whole, tmp_path)
    again = load(str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(again(images()), whole(images()))


def test_a_killed_run_is_resumed_with_the_same_bytes(finished, tmp_path):
    seen = []

    def kill(steps, line):
        seen.append(line["step"])
        if len(seen) == 10:  # in the third of three stages of four steps
            raise KilledError

    with pytest.raises(KilledError):
        distill(recipe=RECIPE, out=tmp_path / "run", audit=False, watch=kill, checkpoint_seconds=0)
    distill(recipe=RECIPE, out=tmp_path / "run", audit=False, resume=True)
    whole, resumed = (
        (out / "student.safetensors").read_bytes() for out in (finished, tmp_path / "run")
    )
    assert whole == resumed


def test_it_leaves_as_one_graph(finished, tmp_path):
    export(str(finished), format=["onnx"], out=tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"))
    (logits,) = session.run(None, {"images": images().numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), load(str(finished)).eval()(images()))
    assert math.isclose(float(torch.from_numpy(logits).exp().sum()), 5.0, rel_tol=1e-5)


def test_members_of_two_architectures_are_refused():
    changed = network(1)
    changed.plan = ({"kind": "expanded", "layer": "fc", "classes": 4},)
    with pytest.raises(ValueError, match="must be of one architecture"):
        ensemble_of([network(0), changed])
