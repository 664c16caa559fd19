import numpy as np
import torch

from doublure.core.protocols import InputContract
from doublure.data.digits import digits, open_digits


def test_the_parts_have_1297_and_500_images_and_make_the_whole():
    (train, train_labels), (test, test_labels), (every, _) = map(digits, ("train", "test", "all"))
    assert (len(train), len(test), len(every)) == (1297, 500, 1797)
    parts = sorted(image.tobytes() for image in np.concatenate([train, test]))
    assert parts == sorted(image.tobytes() for image in every)
    assert (len(train_labels), len(test_labels)) == (1297, 500)


def test_every_class_has_its_share_of_the_test_set():
    (_, test), (_, every) = digits("test"), digits("all")
    share = torch.bincount(every).double() * 500 / 1797
    assert ((torch.bincount(test) - share).abs() < 1).all()


def test_sixteen_levels_fill_the_byte():
    pixels, _ = digits("all")
    assert pixels.dtype == np.uint8
    assert np.unique(pixels).tolist() == [round(level * 255 / 16) for level in range(17)]


def test_the_split_is_the_same_on_every_machine():
    _, labels = digits("test")
    assert labels[:12].tolist() == [1, 8, 4, 9, 5, 2, 8, 3, 3, 4, 6, 6]


def test_a_colour_network_of_another_size_is_served():
    contract = InputContract(size=(32, 32), channels=3, mean=(0,) * 3, std=(1,) * 3, classes=10)
    data = open_digits(contract, split="test", labels=True, cache_bytes=2**30)
    assert data.images([0, 1]).shape == (2, 3, 32, 32)
    assert data.names == tuple("0123456789")
    assert data.notes == ("500 grey images became RGB", "500 images were scaled to 32x32")
