"""Layers that round; how well they do is tested with the transform that makes them."""

import torch
from torch import nn

from doublure.nets.quantized import Grid, grids_as_called, grids_of, quantize_


class Backwards(nn.Module):
    """The layer that is defined first is called last."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))


def test_grids_come_by_name_as_defined_and_in_turn_as_called():
    body = Backwards()
    coarse, fine = (Grid(weight_bits=bits, activation_bits=bits) for bits in (4, 8))
    quantize_(body, {"last": coarse, "first": fine})
    assert grids_of(body) == {"last": coarse, "first": fine}
    assert grids_as_called(body, torch.zeros(1, 3)) == [fine, coarse]
    assert not any(layer._forward_pre_hooks for layer in body.modules())
