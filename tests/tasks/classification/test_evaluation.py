import numpy as np
import pytest
import torch
from torch import nn

from doublure.core.protocols import InputContract
from doublure.data.arrays import array_images
from doublure.data.datasets import open_data
from doublure.nets.network import Network
from doublure.tasks.classification.evaluation import evaluate

CONTRACT = InputContract(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,), classes=10)


def network(seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    )
    return Network(body, CONTRACT)


def levels(labels, names=None, classes=10):
    """Images of one grey level per label, which `Reader` reads back."""
    contract = InputContract(
        size=(2, 2), channels=1, mean=(0.5,), std=(0.5,), classes=classes, names=names
    )
    pixels = np.tile(np.array(labels, dtype=np.uint8)[:, None, None, None], (1, 2, 2, 1))
    return pixels, contract


def dataset(shown, labels, names=None):
    pixels, contract = levels(shown, names)
    return array_images(
        pixels,
        contract,
        labels=None if labels is None else torch.tensor(labels),
        names=None,
        digest="",
        where="here",
        cache_bytes=0,
    )


class Reader(nn.Module):
    """Answers the class whose number is the image's grey level."""

    def forward(self, images):
        self.seen = images
        return nn.functional.one_hot((images[:, 0, 0, 0] * 255).round().long(), 10).float()


def test_scores_by_hand():
    found = evaluate(Reader(), dataset([0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 0, 1]))
    assert found.to_json() == {
        "accuracy": 4 / 6,
        "correct": 4,
        "count": 6,
        "per_class": {
            "0": {"accuracy": 2 / 3, "correct": 2, "count": 3},
            "1": {"accuracy": 2 / 3, "correct": 2, "count": 3},
        },
    }
    assert found.interval()[0] < 4 / 6 < found.interval()[1]


def test_classes_bear_their_names_and_namesakes_their_number_too():
    names = ("crane", "crane", *"cdefghij")
    found = evaluate(Reader(), dataset([0, 1, 2], [0, 1, 2], names))
    assert list(found.per_class) == ["crane (0)", "crane (1)", "c"]


@pytest.mark.parametrize("batch_size", [1, 7, 500, 512])
def test_the_batch_size_changes_nothing(batch_size):
    data = open_data("builtin/digits:test", CONTRACT)
    whole = evaluate(network(), data).to_json()
    assert evaluate(network(), data, batch_size=batch_size).to_json() == whole


def test_the_model_is_left_as_it_was():
    model = network().double()
    model.body[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    evaluate(model, open_data("builtin/digits:test", CONTRACT))
    assert [module.training for module in model.modules()] == modes
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_bfloat16_model_under_autocast_answers_in_float32():
    seen = []

    class Watched(Network):
        def forward(self, images):
            output = super().forward(images)
            seen.append((images.dtype, output.dtype, torch.backends.cudnn.allow_tf32))
            return output

    model = Watched(network().body, CONTRACT).bfloat16()
    allowed = torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        evaluate(model, open_data("builtin/digits:test", CONTRACT))
    assert set(seen) == {(torch.float32, torch.float32, False)}
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_data_without_labels_are_refused():
    with pytest.raises(ValueError, match="these data have no labels"):
        evaluate(Reader(), dataset([0], None))


def test_a_network_that_answers_nan_is_refused():
    model = network()
    nn.init.constant_(model.body[4].weight, float("nan"))
    with pytest.raises(ValueError, match="logits are NaN or infinite"):
        evaluate(model, open_data("builtin/digits:test", CONTRACT))
