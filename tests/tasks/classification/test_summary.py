import functools

import numpy as np

from doublure.engine.distill import TeacherStream
from doublure.nets.generators import GeneratorPlan
from doublure.nets.network import Network
from doublure.recipes import PARTS
from doublure.sources.collapse import CollapseCheck
from doublure.sources.deep_inversion import DeepInversion
from doublure.sources.dfad import DFAD
from doublure.sources.image_optimisation import ImageOptimisation
from doublure.tasks.classification import summary
from doublure.tasks.classification.held_out import answer_held_out
from doublure.verbs.distill import distill
from tests import tiny


def network(seed: int) -> Network:
    return Network(tiny.network(seed), tiny.CONTRACT).eval()


def game(out, **changes):
    plan = GeneratorPlan(latent=8, width=4)
    source = DFAD(generator=plan, imitation_steps=2, collapse=CollapseCheck(every=0))
    parts = {
        "transfer": source,
        "method": "shader-kd",
        "without": PARTS,
        "steps": 4,
        "batch_size": 8,
        "audit": False,
    }
    return distill(network(0), network(1), out=out, device="cpu", **parts, **changes)


def test_of_a_game_the_last_batch_is_kept_with_what_both_said_of_it(tmp_path, monkeypatch):
    shown = []
    answered = TeacherStream.draw

    def watched(self, step, student):
        shown.append(answered(self, step, student))
        return shown[-1]

    monkeypatch.setattr(TeacherStream, "draw", watched)
    few = functools.partial(answer_held_out, count=8)
    monkeypatch.setattr(summary, "answer_held_out", few)
    game(tmp_path / "run")
    with np.load(tmp_path / "run" / "samples.npz") as samples:
        pixels = (shown[-1].images * 255).round().permute(0, 2, 3, 1).numpy()
        assert np.array_equal(samples["images"], pixels)
        teacher = shown[-1].teacher.output
        np.testing.assert_allclose(samples["teacher"], teacher.softmax(-1), atol=1e-6)
        assert samples["histogram"].tolist() == teacher.argmax(-1).bincount(minlength=3).tolist()
    kept = (tmp_path / "run" / "samples.npz").read_bytes()
    game(tmp_path / "run", resume=True)  # which finds the student finished and draws nothing
    assert (tmp_path / "run" / "samples.npz").read_bytes() == kept


def test_a_run_on_searched_images_shows_their_way_and_one_that_is_not_audited_does_not(
    tmp_path, monkeypatch
):
    few = functools.partial(answer_held_out, count=8)
    monkeypatch.setattr(summary, "answer_held_out", few)
    source = DeepInversion(optimisation=ImageOptimisation(iterations=10))
    parts = {
        "transfer": source,
        "method": "shader-kd",
        "without": PARTS,
        "steps": 1,
        "batch_size": 8,
        "device": "cpu",
    }
    for name, audit in (("shown", True), ("bare", False)):
        distill(network(0), network(1), out=tmp_path / name, audit=audit, **parts)
    with np.load(tmp_path / "shown" / "optimisation_path.npz") as path:
        assert path["iterations"].tolist() == [0, 2, 5, 10]
        assert path["images"].shape == (4, 6, 8, 8, 1)
    assert "searched images came" in (tmp_path / "shown" / "report.html").read_text()
    assert not (tmp_path / "bare" / "optimisation_path.npz").exists()
