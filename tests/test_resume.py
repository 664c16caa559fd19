"""Killed without warning, in a process of its own, a run ends with the same student."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.command import command

STEPS = 24
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def resume() -> ModuleType:
    """The experiment of which this is the short form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("resume")


@pytest.fixture(scope="module")
def teacher(resume, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    resume.teach(folder)
    return folder


@pytest.fixture(scope="module")
def whole(resume, teacher, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    resume.learn(teacher, folder, STEPS)
    return folder


def kill_at_step(resume: ModuleType, teacher: Path, out: Path, step: int) -> None:
    process = resume.start(teacher, out, STEPS)
    assert resume.wait_for(process, out, step), f"the run had ended before step {step}"
    resume.kill(process)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((8,), id="once"),
        pytest.param((4, 12, 20), id="three times", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_with_the_same_student(resume, teacher, whole, tmp_path, steps):
    out = tmp_path / "run"
    for step in steps:
        kill_at_step(resume, teacher, out, step)
    assert not (out / "student.safetensors").exists()
    told = command("distill", "--recipe", out / "recipe.toml", "--out", out, "--resume")
    assert told.status == 0, told.err
    assert "going on from step " in told.err
    assert resume.digest(out) == resume.digest(whole)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))


def test_an_interrupt_from_the_keyboard_is_one_line_and_the_run_goes_on(resume, teacher, tmp_path):
    out = tmp_path / "run"
    words = ("distill", "--teacher", teacher, "--student", "builtin/convnet-3", "--transfer")
    words = (*words, "noise", "--method", "shader-kd", "--without", "attack")
    words = (*words, "--steps", "100000", "--set", "log_every=1")
    # Who runs the suite in the background has its interrupts ignored, and children inherit that.
    heeding = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); "
    code = heeding + "from doublure.cli.main import run; run()"
    script = [sys.executable, "-c", code, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*map(str, script), "--out", str(out)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert resume.wait_for(process, out, 1)
    process.send_signal(resume.signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert told.splitlines()[-1].startswith("error: interrupted after step ")
    assert "Traceback" not in told
