"""What the benchmarks count of a teacher: images shown to it, and gradients back to them."""

import torch
from torch import nn


def test_passes_back_are_counted_whatever_layer_the_loss_is_on(benchmark_script):
    counted = benchmark_script("experiments").counted
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).requires_grad_(False)
    inner = []
    network[0].register_forward_hook(lambda _layer, _inputs, output: inner.append(output))
    images = torch.rand(5, 3, requires_grad=True)
    with counted(network) as passes:
        network(torch.rand(7, 3))
        network(images).sum().backward()
        network(images * 2)
        inner[-1].sum().backward()
        torch.autograd.grad(network(images).sum(), images)
        with torch.no_grad():
            network(images)
    assert (passes.forward, passes.backward) == (7 + 4 * 5, 3 * 5)
