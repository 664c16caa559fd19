"""Recipes and seeds on record make the students on record."""

import shutil
import subprocess
import sys

import pytest


def test_only_runs_on_record_can_differ(benchmark_script):
    script = benchmark_script("same_bytes")
    assert script.differing({"train": "a", "prune": "b"}, {"train": "a", "prune": "c"}) == ["prune"]
    assert script.differing({}, {"train": "a"}) == []


@pytest.mark.slow
def test_every_recipe_makes_the_bytes_on_record(benchmark_script, tmp_path):
    script = benchmark_script("same_bytes")
    record = shutil.copy(script.RECORD, tmp_path)
    # In a process of its own: the tests' deterministic kernels are not those of a run.
    words = [sys.executable, script.__file__, "--file", record]
    made = subprocess.run(words, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
