"""The program that reopens a file in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from doublure.engine.programs import trace_program, write_program
from doublure.exports import reopen
from doublure.nets.network import Network


def test_an_onnx_file_is_answered_without_torch(
    float_file: Path, network: Network, probe: Tensor, tmp_path: Path
) -> None:
    np.save(tmp_path / "probe.npy", probe.numpy())
    arguments = ["onnx", float_file, tmp_path / "probe.npy", tmp_path / "out.npz", "", "", 4, 10]
    code = (
        "import runpy, sys; path = sys.argv[1]; del sys.argv[1];"
        "runpy.run_path(path, run_name='__main__'); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-P", "-c", code, reopen.__file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    with torch.no_grad():
        expected = network(probe).numpy()
    with np.load(tmp_path / "out.npz") as answers:
        some, whole = answers.values()
    np.testing.assert_allclose(some, expected[: reopen.FEWEST], atol=1e-5)
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_a_program_is_answered_batch_by_batch(
    network: Network, probe: Tensor, tmp_path: Path
) -> None:
    write_program(trace_program(network), network, tmp_path / "net.pt2")
    np.save(tmp_path / "probe.npy", probe.numpy())
    files = [str(tmp_path / name) for name in ("net.pt2", "probe.npy", "out.npz")]
    reopen.main("pt2", *files, "", "", "7")
    with np.load(tmp_path / "out.npz") as answers, torch.no_grad():
        (answer,) = answers.values()
        np.testing.assert_allclose(answer, network(probe).numpy()[:7], atol=1e-5)
