"""What a file says about itself."""

import json

from doublure.engine.description import describe
from doublure.nets.network import Network


def test_every_value_is_json_and_says_the_contract(network: Network) -> None:
    told = {name: json.loads(value) for name, value in describe(network).items()}
    assert told["class_names"] == ["null", "eins", "zwei"]
    assert (told["mean"], told["std"], told["size"]) == ([0.4], [0.3], [8, 8])
    assert told["reference"] == "file:net.py:make"
