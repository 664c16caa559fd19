import json

import numpy as np
import pytest
import torch

import doublure
from doublure.core.findings import Finding
from doublure.engine.run_folder import SUMMARY
from doublure.nets.network import Network, count_parameters
from doublure.nets.quantized import grids_of
from doublure.nets.rounding import fake_quantize_weight
from doublure.networks import load, save
from doublure.tasks.classification import summary
from tests import tiny
from tests.command import command

RUN = {"transfer": "noise", "batch_size": 8, "audit": False}
SMALL = {"set": {"pool_size": "16"}}
ROUNDS = {"set": {f"stages.{i}.source.source.pool_size": "16" for i in range(2)}}


@pytest.fixture(scope="module")
def network() -> Network:
    return load("builtin/convnet-6", like=tiny.CONTRACT)


@pytest.fixture(scope="module")
def more(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "more.npz"
    drawn = np.random.default_rng(0)
    np.savez(path, x=drawn.integers(0, 256, (60, 8, 8), dtype=np.uint8), y=3 + np.arange(60) % 2)
    return str(path)


def test_a_pruned_run_is_a_smaller_network_that_can_be_loaded(network, tmp_path):
    summary = doublure.prune(network, 0.4, out=tmp_path / "run", steps=2, rounds=2, **RUN, **ROUNDS)
    assert summary["student_parameters"] < 0.8 * summary["teacher_parameters"]
    assert summary["student_flops"] < summary["teacher_flops"]
    made = load(str(tmp_path / "run"))
    assert count_parameters(made) == summary["student_parameters"]
    assert [record["kind"] for record in made.plan] == ["pruned", "pruned"]
    assert (tmp_path / "run" / "report.html").exists()


def test_a_pruned_network_is_timed_against_what_it_was_and_is_the_same_without(
    network, tmp_path, monkeypatch
):
    found = Finding(name="score", verdict="ok", summary="Fine.", tag="proxy")
    monkeypatch.setattr(summary, "score_stage", lambda *_: found)
    timed, bare = (
        doublure.prune(
            network, 0.4, out=tmp_path / name, steps=2, **{**RUN, "audit": audit}, **SMALL
        )
        for name, audit in (("timed", True), ("bare", False))
    )
    for what in ("latency_ms", "answers_per_second"):
        assert min(timed[f"{role}_{what}"] for role in ("teacher", "student")) > 0
        assert f"student_{what}" not in bare
    one, other = (tmp_path / name / "student.safetensors" for name in ("timed", "bare"))
    assert one.read_bytes() == other.read_bytes()
    assert "Latency of one image, CPU" in (tmp_path / "timed" / "report.html").read_text()


def test_a_quantized_run_needs_no_step(network, tmp_path):
    summary = doublure.quantize(network, out=tmp_path / "run", weight_bits=4, **RUN, **SMALL)
    assert summary["steps"] == 0
    made = load(str(tmp_path / "run"))
    assert {grid.weight_bits for grid in grids_of(made.body).values()} == {4, 8}
    state, held = network.body.state_dict(), made.body.state_dict()
    for name, grid in grids_of(made.body).items():  # on disk as integers
        on_grid = fake_quantize_weight(state.pop(f"{name}.weight"), grid.weight_bits)
        torch.testing.assert_close(held[f"{name}.weight"], on_grid, rtol=1e-6, atol=0)
    assert all(torch.equal(held[name], value) for name, value in state.items())


def test_the_ends_may_have_the_bits_of_the_other_layers(network, tmp_path):
    save(network, tmp_path / "plain")
    words = f"quantize --model {tmp_path / 'plain'} --out {tmp_path / 'run'} --transfer noise"
    options = (
        "--weight-bits 4 --activation-bits 4 --first-last-bits same --batch-size 8 "
        "--set pool_size=16"
    )
    assert command(*words.split(), *options.split()).status == 0
    made = load(str(tmp_path / "run"))
    assert {grid.weight_bits for grid in grids_of(made.body).values()} == {4}


def test_learning_with_rounded_weights_leaves_the_statistics_byte_for_byte(network, tmp_path):
    doublure.quantize(network, out=tmp_path / "run", steps=2, **RUN, **SMALL)
    before, after = network.body.state_dict(), load(str(tmp_path / "run")).body.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "conv1.weight" in moved
    assert not any("running" in name for name in moved)
    doublure.quantize(network, out=tmp_path / "free", steps=2, train_batchnorm=True, **RUN, **SMALL)
    free = load(str(tmp_path / "free")).body.state_dict()
    assert not torch.equal(before["bn1.running_mean"], free["bn1.running_mean"])


def test_a_run_that_goes_on_is_the_run_that_never_stopped(network, tmp_path):
    whole = doublure.prune(network, 0.4, out=tmp_path / "whole", steps=4, rounds=2, **RUN, **ROUNDS)

    class StopError(Exception):
        pass

    def stop(steps, line):
        raise StopError

    logged = {f"stages.{i}.fit.log_every": "1" for i in range(2)}
    settings = {**RUN, "set": {**ROUNDS["set"], **logged}, "checkpoint_seconds": 0.0}
    with pytest.raises(StopError):
        doublure.prune(
            network, 0.4, out=tmp_path / "cut", steps=4, rounds=2, watch=stop, **settings
        )
    doublure.prune(network, 0.4, out=tmp_path / "cut", steps=4, rounds=2, resume=True, **settings)
    files = [tmp_path / name / "student.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert whole["steps"] == 4


@pytest.mark.parametrize("strategy", ["rehearsal", "plain"])
def test_new_classes_are_scored_apart(network, more, tmp_path, strategy):
    settings = {name: value for name, value in RUN.items() if name not in ("audit", "transfer")}
    if strategy == "rehearsal":
        settings |= {"transfer": "noise", **SMALL}
    summary = doublure.continual(
        network, more, out=tmp_path / "run", strategy=strategy, eval=more, steps=2, **settings
    )
    assert summary["new_count"] == 60
    assert summary["old_accuracy"] is None
    assert (summary["agreement"] is None) == (strategy == "plain")
    assert json.loads((tmp_path / "run" / SUMMARY).read_text()) == summary
    assert summary["new_classes"] == 2
    assert summary["forgetting"] is None
    assert "tells what it forgot" in (tmp_path / "run" / "report.html").read_text()
    made = load(str(tmp_path / "run"))
    assert made.contract.classes == 5
    assert made.eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 5)


def test_forgetting_is_what_the_old_network_knew_less_what_is_left(network, more, tmp_path):
    drawn = np.random.default_rng(1)
    with np.load(more) as given:
        old = drawn.integers(0, 256, (40, 8, 8), dtype=np.uint8)
        both = np.concatenate((given["x"], old)), np.concatenate((given["y"], np.arange(40) % 3))
    np.savez(tmp_path / "both.npz", x=both[0], y=both[1])
    summary = doublure.continual(
        network,
        more,
        out=tmp_path / "run",
        strategy="plain",
        eval=str(tmp_path / "both.npz"),
        steps=30,
        lr=0.1,
        batch_size=8,
    )
    assert (summary["old_count"], summary["new_count"]) == (40, 60)
    assert summary["teacher_correct"] / 40 == summary["teacher_accuracy"]
    assert summary["forgetting"] == summary["teacher_accuracy"] - summary["old_accuracy"]
    assert summary["student_correct"] == summary["old_correct"] + summary["new_correct"]


def test_data_without_a_new_class_are_refused(network, tmp_path):
    path = tmp_path / "old.npz"
    np.savez(path, x=np.zeros((4, 8, 8), np.uint8), y=np.arange(4) % 3)
    with pytest.raises(ValueError, match="adds no class to the 3 old ones"):
        doublure.continual(network, str(path), out=tmp_path / "run")


def test_a_frozen_network_learns_all_the_same(network, tmp_path):
    frozen = load("builtin/convnet-6", like=tiny.CONTRACT).requires_grad_(False)
    assert doublure.prune(frozen, 0.3, out=tmp_path / "run", steps=1, **RUN, **SMALL)["steps"] == 1


def test_a_recipe_of_another_verb_is_refused(network, tmp_path):
    doublure.quantize(network, out=tmp_path / "run", **RUN, **SMALL)
    with pytest.raises(ValueError, match="the recipe is one of quantize; run it with"):
        doublure.prune(recipe=tmp_path / "run" / "recipe.toml", out=tmp_path / "other")
