import numpy as np
import pytest
import torch
from torch import nn

from doublure.core.protocols import InputContract
from doublure.data.datasets import open_data
from doublure.nets.network import Network
from doublure.tasks.classification import evaluation
from doublure.verbs.evaluate import evaluate

CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,), classes=10)


def network():
    torch.manual_seed(0)
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), CONTRACT)


def test_a_name_and_the_opened_data_score_the_same():
    data = open_data("builtin/digits:test", CONTRACT)
    expected = evaluation.evaluate(network(), data).to_json()
    assert evaluate(network(), data).to_json() == expected
    assert evaluate(network(), "builtin/digits").to_json() == expected
    assert expected["count"] == 500


def test_what_was_done_to_the_images_is_said(tmp_path):
    np.savez(tmp_path / "wide.npz", x=np.zeros((3, 16, 16), dtype=np.uint8), y=np.arange(3))
    said = []
    evaluate(network(), tmp_path / "wide.npz", say=said.append)
    assert said == ["3 images were scaled to 8x8"]


def test_a_built_in_network_is_made_from_its_name():
    found = evaluate("builtin/resnet8", "builtin/digits", mean=[0.5] * 3, std=[0.5] * 3, classes=10)
    assert found.count == 500


def test_data_without_labels_are_refused(tmp_path):
    np.savez(tmp_path / "bare.npz", x=np.zeros((3, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="has no array 'y'"):
        evaluate(network(), tmp_path / "bare.npz")


def test_a_bare_module_cannot_size_data_for_itself():
    with pytest.raises(ValueError, match="has no input contract"):
        evaluate(nn.Flatten(), "builtin/digits")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "known"),
    [
        ("resnet20", "resnet20-12fca82f.th", 81.0),
        ("resnet56", "resnet56-4bfd9763.th", 83.2),
    ],
)
def test_public_checkpoints_score_what_is_known_of_them(
    real_data, benchmark_script, name, file, known
):
    found = evaluate(
        f"builtin/{name}",
        benchmark_script("real_data").cifar10_folder(),
        weights=str(real_data / "cifar10-resnet" / file),
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        classes=10,
    )
    assert round(100 * found.accuracy, 1) == known
    assert found.count == 10_000
