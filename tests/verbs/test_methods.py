import re

from doublure.catalogue import METHODS
from doublure.verbs.methods import methods


def test_every_method_of_the_catalogue_is_listed_once():
    assert [entry["name"] for entry in methods()] == [entry.name for entry in METHODS]


def test_the_arxiv_number_is_that_of_the_paper():
    for entry in methods():
        numbers = re.findall(r"arXiv:(\d{4}\.\d{4,5})", entry["paper"])
        assert entry["arxiv"] == (numbers[0] if numbers else None)


def test_needs_are_in_the_words_of_the_cards():
    known = {
        "logits",
        "features",
        "batchnorm",
        "gradients",
        "weights",
        "inputs",
        "labels",
        "images",
        "nothing",
    }
    assert set().union(*(entry["needs"] for entry in methods())) <= known
