"""One small network with batch normalisation that has seen data, and files made of it once."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from doublure.core.protocols import InputContract
from doublure.core.seeding import from_seed
from doublure.engine.description import describe
from doublure.engine.programs import trace_program
from doublure.exports.int8_onnx import Int8, export_int8_onnx
from doublure.exports.onnx import write_onnx
from doublure.nets.network import Network
from tests import tiny

CONTRACT = InputContract(
    size=(8, 8), channels=1, mean=(0.4,), std=(0.3,), classes=3, names=("null", "eins", "zwei")
)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=from_seed(seed))


@pytest.fixture(scope="session")
def network() -> Network:
    made = Network(tiny.network(0, width=16), CONTRACT, reference="file:net.py:make")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for seed in range(20):
            made.train()(images(32, seed))
    return made.eval()


@pytest.fixture(scope="session")
def probe() -> Tensor:
    return images(10, seed=100)


@pytest.fixture(scope="session")
def float_file(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "student.onnx"
    write_onnx(trace_program(network), describe(network), path)
    return path


@pytest.fixture(scope="session")
def int8_file(float_file: Path) -> Path:
    path = float_file.with_name("student.int8.onnx")
    export_int8_onnx(float_file, path, [images(64)], Int8())
    return path
