import torch

from doublure.sources.epochs import Epochs
from tests import tiny


def test_every_epoch_has_each_item_once_in_another_order():
    places = torch.tensor([2, 3, 5, 7, 11])
    epochs = Epochs(places, tiny.rng())
    first, second = epochs.at(0, 5), epochs.at(5, 10)
    assert sorted(first.tolist()) == sorted(second.tolist()) == places.tolist()
    assert epochs.at(3, 12).tolist() == [*first.tolist(), *second.tolist(), *epochs.at(10, 12)][3:]
