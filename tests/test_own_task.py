"""A task of one's own is one module and one line: through every verb that it names."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
import typer
from typer.testing import CliRunner

import doublure.tasks
from doublure import distill
from doublure.cli import task_verbs
from doublure.networks import load
from doublure.verbs.reference import reference
from tests import angle_task
from tests.command import command


class KilledError(Exception):
    pass


@pytest.fixture(autouse=True)
def _one_line(monkeypatch):
    tasks = (*doublure.tasks.TASKS, angle_task.AngleTask())
    monkeypatch.setattr(doublure.tasks, "TASKS", tasks)


@pytest.fixture
def teacher(tmp_path):
    done = command(
        *("train", "--net", "builtin/angles-8", "--data", "angles:0", "--eval", "angles:1"),
        *("--out", tmp_path / "teacher", "--steps", "200"),
    )
    assert done.status == 0, done.err
    assert "degrees off" in done.out
    return tmp_path / "teacher"


def test_a_task_of_one_module_goes_through_every_verb(teacher, tmp_path):
    networks = ("--teacher", teacher, "--student", "builtin/angles-4", "--transfer", "angles:0")
    out = tmp_path / "run"
    done = command("distill", *networks, "--eval", "angles:1", "--out", out)
    assert done.status == 0, done.err
    summary = json.loads((out / "summary.json").read_text())
    assert summary["task"] == "angles"
    assert summary["student_scores"]["degrees"] < 45  # what guessing is off by
    assert "bars/s" in done.out
    page = (out / "report.html").read_text()
    assert "held-out bars" in page

    done = command("evaluate", "--model", out, "--data", "angles:2", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["count"] == 64

    done = command("export", "--model", out, "--format", "onnx,pt2", "--out", out)
    assert done.status == 0, done.err
    images, _ = angle_task.draw_bars(3, torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(str(out / "student.onnx"))
    outputs = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"images": images.numpy()}),
            strict=True,
        )
    )
    with torch.no_grad():
        expected = load(str(out)).eval()(images)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value.numpy(), atol=1e-5)

    assert command("report", out).status == 0
    refused = command("prune", "--model", out, "--out", tmp_path / "pruned")
    assert "measures bars, and prune is not for such networks" in refused.reason


def test_a_killed_run_of_it_is_resumed_with_the_same_bytes(teacher, tmp_path):
    run = {
        "transfer": "angles:0",
        "steps": 8,
        "batch_size": 8,
        "set": {"log_every": "1"},
        "checkpoint_seconds": 0.0,
    }
    networks = (str(teacher), "builtin/angles-4")

    def kill(steps, line):
        if line["step"] >= 4:
            raise KilledError

    with pytest.raises(KilledError):
        distill(*networks, out=tmp_path / "run", **run, watch=kill)
    distill(*networks, out=tmp_path / "run", **run, resume=True)
    distill(*networks, out=tmp_path / "whole", **run)
    killed, whole = (
        (tmp_path / name / "student.safetensors").read_bytes() for name in ("run", "whole")
    )
    assert killed == whole


def test_verbs_of_its_own_are_mounted_from_the_tuple_of_tasks(tmp_path):
    app = typer.Typer()
    task_verbs.register(app, reference(doublure.tasks.TASKS)["tasks"])
    run = CliRunner().invoke
    shown = run(app, ["angles", "draw", "--help"]).output
    assert "Write images of bars to a file." in shown
    assert "How many." in shown
    assert "Brightness that is added, in [0, 1]." in " ".join(shown.replace("\u2502", "").split())
    out = tmp_path / "bars.pt"
    words = ["angles", "draw", "--out", str(out), "--shift", "0.5", "--flip", "--marks", "a"]
    made = run(app, [*words, "--marks", "b"])
    assert (made.exit_code, made.output.split()[:2]) == (0, ["4", "bars"])
    saved = torch.load(out)
    images, _ = angle_task.draw_bars(4, torch.Generator().manual_seed(0))
    assert saved["marks"] == ["a", "b"]
    torch.testing.assert_close(saved["images"], images.flip(-2) + 0.5)
    made = run(app, ["angles", "draw", "--out", str(out), "--count", "2", "--json"])
    assert json.loads(made.output) == {"path": str(out), "count": 2}


def test_a_pair_of_two_tasks_is_refused(teacher, tmp_path):
    done = command(
        *("distill", "--teacher", teacher, "--student", "builtin/convnet-4"),
        *("--transfer", "angles:0", "--out", tmp_path / "run"),
    )
    assert done.status == 1
    assert "the number of classes of builtin/convnet-4 is unknown" in done.reason
