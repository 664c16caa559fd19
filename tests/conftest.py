"""One thread, deterministic algorithms, derandomised properties; real data only where it is."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("house")
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


@pytest.fixture
def benchmark_script(monkeypatch) -> Callable[[str], ModuleType]:
    """Imports a script of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def docs_script(monkeypatch) -> Callable[[str], ModuleType]:
    """Imports a script of docs/ by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs"))
    return importlib.import_module


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, or a skip that says why."""
    folder = os.environ.get("DOUBLURE_DATA")
    if not folder:
        pytest.skip("DOUBLURE_DATA is not set: no real data at hand")
    return Path(folder)
