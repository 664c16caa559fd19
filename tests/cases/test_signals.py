"""A run that is told to stop saves first, and ends as one that was never stopped."""

import os
import signal

import pytest
import torch

from doublure.core.protocols import image_batch
from doublure.engine.distill import TeacherStream
from doublure.nets.network import freeze
from tests import tiny
from tests.command import command

SMALL = (
    *("--student", "builtin/convnet-3", "--method", "shader-kd", "--transfer", "noise"),
    *("--without", "balance", "--without", "augmentation", "--steps", "12", "--batch-size", "8"),
    *("--set", "fit.log_every=1"),
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "teacher"
    words = ("train", "--net", "builtin/convnet-4", "--data", "builtin/digits")
    assert command(*words, "--steps", "2", "--batch-size", "16", "--out", out).status == 0
    return out


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_stopped_run_goes_on_at_its_step(teacher, tmp_path, monkeypatch, number, status):
    whole = tmp_path / "whole"
    assert command("distill", "--teacher", teacher, *SMALL, "--out", whole).status == 0
    words = ("distill", "--teacher", teacher, *SMALL, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        from doublure.cli import console

        watch = console.Lines.watch

        def stop(self, steps, line):
            if line["step"] == 5:
                os.kill(os.getpid(), number)
            watch(self, steps, line)

        patch.setattr(console.Lines, "watch", stop)
        told = command(*words)
    assert told.status == status
    assert "interrupted after step 5 of 12, which is saved" in told.reason
    assert "--resume continues" in told.reason
    told = command(*words, "--resume")
    assert told.status == 0
    assert "from step 5 of 12" in told.err
    for name in ("student.safetensors", "report.html"):
        assert (whole / name).exists()
    assert (whole / "student.safetensors").read_bytes() == (
        tmp_path / "run" / "student.safetensors"
    ).read_bytes()


class Drawn:
    def draw(self, step, student):
        return image_batch(torch.full((2, 1, 8, 8), step / 10))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_a_run_killed_while_it_is_summed_up_still_has_its_last_batch():
    teacher = freeze(tiny.network(0))
    stream = TeacherStream(Drawn(), teacher, final=1)
    stream.draw(0, None)
    assert stream.state_dict()["last"] is None
    last = stream.draw(1, None)
    resumed = TeacherStream(Drawn(), teacher, final=1)
    resumed.load_state_dict(stream.state_dict())
    assert torch.equal(resumed.last.images, last.images)
    assert torch.equal(resumed.last.teacher.output, last.teacher.output)
