import copy

import pytest
import torch

from doublure.nets.preserve_state import preserve_state
from tests import tiny


def standing(network):
    modes = [module.training for module in network.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    return copy.deepcopy((network.state_dict(), modes, grads))


@pytest.mark.parametrize("evaluate", [True, False])
def test_a_borrowed_network_comes_back_as_it_was(evaluate):
    network = tiny.network(0)
    network[3].eval()
    network(torch.rand(4, 1, 8, 8)).sum().backward()
    before, state = standing(network), torch.random.get_rng_state()
    images = torch.rand(4, 1, 8, 8, generator=tiny.rng(), requires_grad=True)
    with preserve_state(network, 1, evaluate=evaluate) as asked:
        assert asked.training is not evaluate
        torch.autograd.grad(asked(images).sum(), images)
    torch.testing.assert_close(standing(network), before, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_its_dropout_follows_the_seed():
    network, images = tiny.network(0), torch.rand(4, 1, 8, 8, generator=tiny.rng())
    answers = []
    for seed in (1, 1, 2):
        with preserve_state(network, seed) as asked:
            answers.append(asked(images).detach())
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_it_comes_back_even_from_an_error():
    network = tiny.network(0)
    with pytest.raises(RuntimeError, match="lost"), preserve_state(network, 1, evaluate=True):
        raise RuntimeError("lost")
    assert network.training
