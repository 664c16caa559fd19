"""Two processes, started by torchrun, make the student that one makes of the same global batch.

That holds to rounding where the source's parts add up to the global batch (a surrogate set does)
and nothing looks across the images of a batch (no BatchNorm). Any other run is a function of
recipe, seed and number of processes, and goes on after a kill to the same bits.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from doublure.engine.processes import ProcessGroup, process_group
from doublure.engine.run_folder import read_metrics
from doublure.verbs.train import train
from tests.command import command

NETWORK = """
from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
def make(classes, channels):
    return Sequential(Conv2d(channels, 4, 3), ReLU(), Flatten(), Linear(144, classes))
"""
WEIGHTS = "student.safetensors"
TRAINING = ("--steps", 8, "--batch-size", 12, "--precision", "float32", "--set", "log_every=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    rng = np.random.default_rng(0)
    np.savez(folder / "x.npz", x=rng.integers(0, 256, (50, 8, 8), np.uint8), y=np.arange(50) % 3)
    train("builtin/convnet-4", str(folder / "x.npz"), out=folder / "net", steps=3, batch_size=10)
    (folder / "net.py").write_text(NETWORK)
    return folder


def launch(*words: object) -> subprocess.Popen[str]:
    """Start the command in two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "doublure", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def launched(*words: object) -> tuple[int, str, str]:
    """Run the command in two processes; return its status and what it said."""
    process = launch(*words)
    said, told = process.communicate()
    return process.returncode, said, told


def test_alone_a_process_agrees_with_itself():
    with process_group(cpu=True) as alone:
        assert alone == ProcessGroup(rank=0, world=1)
        assert alone.first
        assert alone.broadcast("value") == "value"
        assert alone.gather("value") == ["value"]
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_two_processes_make_the_student_of_one_and_only_the_first_speaks(folder):
    words = ("distill", "--teacher", folder / "net", "--student", f"file:{folder / 'net.py'}:make")
    words = (*words, "--transfer", folder / "x.npz", "--method", "surrogate-kd")
    words = (*words, "--method", "shader-kd")
    words = (*words, "--without", "mixup", "--without", "augmentation", *TRAINING)
    status, said, told = launched(*words, "--out", folder / "two", "--json")
    assert status == 0, told
    assert json.loads(said)["steps"] == 8
    assert command(*words, "--out", folder / "one").status == 0
    one, two = (load_file(folder / name / WEIGHTS) for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_objective_with_layers_of_its_own_that_never_asks_the_classifier_is_that_of_one(folder):
    words = ("distill", "--teacher", folder / "net", "--student", f"file:{folder / 'net.py'}:make")
    words = (*words, "--transfer", folder / "x.npz", "--method", "surrogate-kd")
    words = (*words, "--method", "shader-kd", "--objective", "vid")
    words = (*words, "--without", "mixup", "--without", "augmentation")
    status, _, told = launched(*words, *TRAINING, "--out", folder / "layers-of-two")
    assert status == 0, told
    assert command(*words, *TRAINING, "--out", folder / "layers-of-one").status == 0
    one, two = (load_file(folder / f"layers-of-{n}" / WEIGHTS) for n in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_that_were_killed_go_on_to_the_same_bits(folder):
    words = ("distill", "--teacher", folder / "net", "--student", "builtin/convnet-3")
    words = (*words, "--transfer", "noise", "--batch-size", 16, "--steps", 200)
    words = (*words, "--set", "log_every=2", "--set", "pool_size=600", "--set", "chunk=24")
    assert launched(*words, "--out", folder / "whole")[0] == 0
    killed = folder / "killed"
    process = launch(*words, "--out", killed)
    while process.poll() is None and len(metrics_log(killed)) < 20:
        time.sleep(0.01)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    alone = command(*words, "--out", killed, "--resume")
    assert alone.reason.endswith("is of 2 processes, not of 1; resume with as many")
    status, _, told = launched(*words, "--out", killed, "--resume")
    assert status == 0, told
    assert "going on from step " in told
    assert (killed / WEIGHTS).read_bytes() == (folder / "whole" / WEIGHTS).read_bytes()
    assert metrics_log(killed) == list(range(2, 201, 2))


def metrics_log(out: Path) -> list[int]:
    path = out / "metrics.jsonl"
    return [line["step"] for line in read_metrics(path)]


@pytest.mark.slow
def test_a_failure_of_the_first_process_is_told_by_it(folder):
    words = ("distill", "--teacher", folder / "net", "--student", "builtin/convnet-3")
    status, _, told = launched(*words, "--transfer", "noise", *TRAINING, "--out", folder / "net")
    assert status == 1
    assert f"error: {folder / 'net'} exists; resume it with --resume" in told


@pytest.mark.parametrize("text", ["abc", "0", "-1", "1.5", ""])
def test_a_number_of_processes_that_is_none_is_named(monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(ValueError, match=f"WORLD_SIZE in the environment is '{text}', not a"):
        process_group(cpu=True).__enter__()
