"""What waits for a GPU has been run, as far as a CPU can, before there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.text import needs_extra

ROOT = Path(__file__).parents[1]


@needs_extra
@pytest.mark.slow
def test_every_experiment_that_waits_for_a_gpu_runs_at_toy_size():
    script = ROOT / "benchmarks" / "gpu.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(script), "--rehearse", "--minutes", "60"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
