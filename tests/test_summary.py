import dataclasses
import functools

import numpy as np
import torch

from tests import tiny
from understudy import summary
from understudy.fit import FitSettings, Outcome
from understudy.nets.generators import GeneratorPlan
from understudy.nets.network import Network
from understudy.objectives.logit_l1 import LogitL1
from understudy.protocols import Trace, image_batch
from understudy.recipe import Stage
from understudy.recipes import PARTS
from understudy.sources.collapse import CollapseCheck
from understudy.sources.deep_inversion import DeepInversion
from understudy.sources.dfad import Dfad
from understudy.sources.image_search import ImageSearch
from understudy.sources.noise import Noise
from understudy.spine import Answered
from understudy.verbs.distill import distill


def network(seed: int) -> Network:
    return Network(tiny.network(seed), tiny.CONTRACT).eval()


def stage(source) -> Stage:
    return Stage(source=source, objective=LogitL1(), fit=FitSettings(batch_size=8))


def test_after_a_game_with_the_student_both_are_compared_on_one_fixed_set_of_shaders():
    one, other = (
        summary.answer_held_out(stage(Dfad()), seed, network(0), network(1), count=8)
        for seed in (0, 1)
    )
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.teacher, other.teacher)
    assert one.on == "shader images of a fixed set; none of what was shown could be held out"


def test_of_other_sources_images_are_held_out_by_the_seed():
    one, other = (
        summary.answer_held_out(stage(Noise()), seed, network(0), network(1), count=8)
        for seed in (0, 1)
    )
    assert not torch.equal(one.images, other.images)
    assert "noise" in one.on


def test_a_generator_that_was_started_afresh_is_said_in_the_summary():
    facts = {"generator_restarts": 0.0}
    well = Outcome(network=network(0), steps=1, images=1, seconds=1.0, terms={"facts": facts})
    assert summary._warnings([well]) == []
    ill = dataclasses.replace(well, terms={"facts": {"generator_restarts": 1.0}})
    assert summary._warnings([well, ill]) == [
        "The generator collapsed while the student learnt, and was started afresh."
    ]


def game(out, **changes):
    plan = GeneratorPlan(latent=8, width=4)
    source = Dfad(generator=plan, imitation_steps=2, collapse=CollapseCheck(every=0))
    parts = {"transfer": source, "without": PARTS, "steps": 4, "batch_size": 8, "audit": False}
    return distill(network(0), network(1), out=out, device="cpu", **parts, **changes)


def test_of_a_game_the_last_batch_is_kept_with_what_both_said_of_it(tmp_path, monkeypatch):
    shown = []
    answered = Answered.draw

    def watched(self, step, student):
        shown.append(answered(self, step, student))
        return shown[-1]

    monkeypatch.setattr(Answered, "draw", watched)
    few = functools.partial(summary.answer_held_out, count=8)
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
    few = functools.partial(summary.answer_held_out, count=8)
    monkeypatch.setattr(summary, "answer_held_out", few)
    source = DeepInversion(search=ImageSearch(iterations=10))
    parts = {"transfer": source, "without": PARTS, "steps": 1, "batch_size": 8, "device": "cpu"}
    for name, audit in (("shown", True), ("bare", False)):
        distill(network(0), network(1), out=tmp_path / name, audit=audit, **parts)
    with np.load(tmp_path / "shown" / "search_path.npz") as path:
        assert path["iterations"].tolist() == [0, 2, 5, 10]
        assert path["images"].shape == (4, 6, 8, 8, 1)
    assert "searched images came" in (tmp_path / "shown" / "report.html").read_text()
    assert not (tmp_path / "bare" / "search_path.npz").exists()


def test_answers_that_are_no_classes_are_not_shown():
    batch = image_batch(torch.rand(2, 1, 8, 8), teacher=Trace(output={"boxes": torch.zeros(2)}))
    assert summary.answer_shown(batch, network(0)) is None
    assert summary.answer_shown(image_batch(torch.rand(2, 1, 8, 8)), network(0)) is None
    assert summary.answer_shown(None, network(0)) is None
