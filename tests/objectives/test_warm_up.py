import torch

from doublure.core.protocols import Outputs, image_batch
from doublure.objectives.warm_up import WarmUp
from doublure.objectives.weighted import Stateless

BATCH = image_batch(torch.zeros(1, 1, 1, 1))
TRACE = Outputs(output=torch.ones(1, 2))


def one(student, teacher, batch):
    return {"term": student.output.mean()}


def terms(loss, count):
    return [loss(TRACE, TRACE, BATCH)["term"].item() for _ in range(count)]


def test_terms_rise_linearly_to_their_weight():
    assert terms(WarmUp(Stateless(one), 4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_without_a_length_there_is_none():
    assert terms(WarmUp(Stateless(one), 0), 2) == [1.0, 1.0]


def test_it_goes_on_where_it_was():
    first, second = WarmUp(Stateless(one), 4), WarmUp(Stateless(one), 4)
    terms(first, 2)
    second.load_state_dict(first.state_dict())
    assert terms(second, 2) == [0.75, 1.0]
