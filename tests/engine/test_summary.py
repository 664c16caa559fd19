import dataclasses

from doublure.engine import summary
from doublure.engine.fit import FitResult
from doublure.engine.task import unlearned_labels_warning
from doublure.nets.network import Network
from tests import tiny


def network(seed: int) -> Network:
    return Network(tiny.network(seed), tiny.CONTRACT).eval()


def test_a_generator_that_was_started_afresh_is_said_in_the_summary():
    metrics = {"generator_restarts": 0.0}
    well = FitResult(network=network(0), steps=1, images=1, seconds=1.0, terms={"metrics": metrics})
    assert summary._warnings([well]) == []
    ill = dataclasses.replace(well, terms={"metrics": {"generator_restarts": 1.0}})
    assert summary._warnings([well, ill]) == [
        "The generator collapsed during training and was re-initialised."
    ]


def test_a_network_that_answers_worse_than_guessing_is_said_in_the_summary():
    (told,) = unlearned_labels_warning({"hard_labels": 1.2}, 3)  # ln 3 = 1.10
    assert "above that of guessing" in told
    assert unlearned_labels_warning({"hard_labels": 1.2}, 4) == []
