import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from doublure.data.own_files import RunFolderError
from doublure.engine import pacing, planning
from doublure.engine.recipe import RecipeError
from doublure.nets import builtin
from doublure.nets.references import NetworkRef
from doublure.recipe_file import read
from doublure.verbs.distill import distill
from doublure.verbs.train import train

TEACHER = NetworkRef(
    ref="builtin/convnet-4", size=(8, 8), channels=1, classes=3, mean=(0.5,), std=(0.25,)
)


class Killed(BaseException):
    pass


def kill_at(step):
    def watch(steps, line):
        if line["step"] == step:
            raise Killed

    return watch


def run(out, **changes):
    options = {
        "transfer": "noise",
        "method": "shader-kd",
        "without": ["augmentation"],
        "steps": 12,
        "batch_size": 16,
        "set": {"fit.log_every": "1", "pool_size": "60", "chunk": "24"},
        "precision": "float32",
        "audit": False,
    }
    return distill(TEACHER, "builtin/convnet-3", out=out, **(options | changes))


def weights(out) -> bytes:
    return (out / "student.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "finished"
    return out, run(out)


@pytest.fixture
def labelled(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "labelled.npz"
    np.savez(path, x=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), y=np.arange(60) % 3)
    return path


def test_a_run_leaves_every_file_of_the_contract(finished):
    out, _ = finished
    files = {path.name for path in out.iterdir()}
    assert files >= {
        "recipe.toml",
        "manifest.json",
        "metrics.jsonl",
        "checkpoint",
        "student.safetensors",
        "student.json",
        "summary.json",
        "report.html",
        "log.txt",
    }
    assert not [name for name in files if name.endswith(".part")]


def test_the_summary_says_what_the_contract_promises(finished):
    out, summary = finished
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["student_accuracy"] is None
    assert 0 <= summary["agreement"] <= 1
    assert summary["agreement_count"] == 2048
    assert "disjoint range of seeds" in summary["agreement_on"]
    assert summary["steps"] == 12
    assert summary["teacher_parameters"] > summary["student_parameters"] > 0
    assert {"images_per_second", "seconds", "seed", "teacher_accuracy"} <= summary.keys()


def test_the_recipe_file_makes_the_same_student_byte_for_byte(finished, tmp_path):
    out, _ = finished
    distill(recipe=out / "recipe.toml", out=tmp_path / "again", audit=False)
    assert weights(tmp_path / "again") == weights(out)


@pytest.mark.parametrize("step", [1, 5, 11])
def test_a_run_that_was_killed_ends_with_the_same_student(finished, tmp_path, step):
    out, _ = finished
    again = tmp_path / "again"
    with pytest.raises(Killed):
        run(again, watch=kill_at(step), checkpoint_seconds=0.0)
    run(again, resume=True)
    assert weights(again) == weights(out)
    lines = (again / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, 13))


def test_evaluation_and_logging_never_change_the_student(finished, tmp_path, labelled):
    out, _ = finished
    summary = run(tmp_path / "scored", eval=str(labelled), set={
        "fit.log_every": "7", "pool_size": "60", "chunk": "24"
    })  # fmt: skip
    assert summary["accuracy_count"] == 60
    assert summary["student_correct"] == round(60 * summary["student_accuracy"])
    assert weights(tmp_path / "scored") == weights(out)


def test_resume_of_another_recipe_names_the_keys(finished):
    out, _ = finished
    with pytest.raises(
        RecipeError, match=r"differs from the one in the folder in .*learning_rate, seed"
    ):
        run(out, resume=True, seed=5, lr=0.2)


def test_an_existing_folder_is_refused(finished):
    out, _ = finished
    with pytest.raises(RunFolderError, match="exists; resume it with --resume"):
        run(out)


def test_resume_of_a_finished_run_says_the_same_again(finished):
    out, summary = finished
    before = weights(out)
    again = run(out, resume=True)
    assert weights(out) == before
    assert again["agreement"] == summary["agreement"]


def test_a_budget_becomes_steps_before_step_0(tmp_path):
    out = tmp_path / "budgeted"
    summary = run(out, steps=None, budget=3.0)
    assert summary["steps"] >= 1
    assert f"steps = {summary['steps']}\n" in (out / "recipe.toml").read_text()


@pytest.mark.parametrize("left", [9, 60])
def test_a_corrected_budget_is_in_the_recipe_which_makes_the_same_student(
    tmp_path, monkeypatch, left
):
    monkeypatch.setattr(pacing, "steps_left", lambda *_: left)
    monkeypatch.setattr(planning, "_of_steps", lambda stage, _: in_steps(stage, 20))
    # Corrected once: after that, what is left is what was said.
    monkeypatch.setattr(pacing, "_CHECKS", 2)
    out, again = tmp_path / "budgeted", tmp_path / "again"
    summary = run(out, steps=None, budget=30.0, set={"pool_size": "30", "least_showings": "1"})
    assert summary["steps"] == 10 + left
    recipe = read(out / "recipe.toml")
    assert recipe.stages[0].fit.replanned == ((10, 20),)
    distill(recipe=out / "recipe.toml", out=again, audit=False)
    assert weights(again) == weights(out)


def in_steps(stage, steps):
    return replace(stage, fit=replace(stage.fit, steps=steps))


def test_a_student_handed_over_in_python_is_trained_and_saved_as_a_program(tmp_path):
    torch.manual_seed(0)
    student = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(3, 3),
    )  # fmt: skip
    distill(
        TEACHER, student, out=tmp_path / "run", method="shader-kd", transfer="noise",
        without=["augmentation"], audit=False, steps=3, batch_size=8, set={"pool_size": "30"},
    )  # fmt: skip
    assert (tmp_path / "run" / "student.pt2").exists()


def test_train_learns_from_labels_and_needs_no_teacher(tmp_path, labelled):
    summary = train(
        "builtin/convnet-4", str(labelled), out=tmp_path / "run", steps=5, batch_size=8,
        eval=str(labelled),
    )  # fmt: skip
    assert summary["teacher_accuracy"] is None
    assert summary["agreement"] is None
    assert summary["accuracy_count"] == 60
    assert (tmp_path / "run" / "report.html").exists()


def test_labels_are_mixed_in_where_the_user_has_them(tmp_path, labelled):
    out = tmp_path / "run"
    run(out, transfer=str(labelled), labels=True, set={"fit.log_every": "1"})
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert {"soft_targets", "hard_labels"} <= line.keys()


def test_layers_that_are_compared_are_told_in_log_summary_and_report(tmp_path):
    out, told = tmp_path / "run", []
    summary = run(
        out, objective=["fit-nets"], say=told.append, without=["balance", "attack"], set={}
    )
    line = "layers: student bn2 (6 x 4 x 4, activated)  <- teacher bn2 (8 x 4 x 4, activated)"
    assert summary["compared"] == [line]
    assert line in told
    assert any("nothing trains the student's classifier" in note for note in told)
    assert line in (out / "log.txt").read_text()
    assert line.replace("<", "&lt;") in (out / "report.html").read_text()
    assert b"adapter" not in weights(out)


def test_a_run_on_layers_goes_on_with_the_same_bits(tmp_path):
    options = {
        "objective": ["soft-targets", "vid", "review-kd"],
        "set": {"log_every": "1"},
        "steps": 6,
    }
    options["without"] = ["balance", "attack"]
    run(tmp_path / "whole", **options)
    with pytest.raises(Killed):
        run(tmp_path / "cut", **options, watch=kill_at(4), checkpoint_seconds=0.0)
    run(tmp_path / "cut", **options, resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_the_student_is_built_once_and_as_the_recipe_says_in_the_end(tmp_path, monkeypatch):
    built = []
    build = builtin.build

    def counted(name, **said):
        built.append(name)
        return build(name, **said)

    monkeypatch.setattr(builtin, "build", counted)
    run(tmp_path / "seed", seed=5)
    assert built.count("convnet-3") == 1
    settings = {"fit.log_every": "1", "pool_size": "60", "chunk": "24", "seed": "5"}
    run(tmp_path / "set", set=settings)
    assert weights(tmp_path / "seed") == weights(tmp_path / "set")
    run(tmp_path / "other")
    assert weights(tmp_path / "seed") != weights(tmp_path / "other")
