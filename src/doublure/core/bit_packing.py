"""Weights of few bits on disk: integers side by side, without a bit between them.

A weight matrix on a symmetric grid, w = s n, |n| <= 2^(bits - 1) - 1, one scale s a row, is stored
under its name as three tensors: NAME.packedBITS holds n + 2^(bits - 1) - 1 in BITS bits each, in
order, the last byte filled with zeros; NAME.scales the scales; NAME.shape the shape.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

_PACKED = re.compile(r"(.+)\.packed([2-8])")


def pack(integers: Integer[Tensor, " count"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Return integers from 0 to 2^bits - 1 in so many bits each."""
    digits = (integers[:, None] >> torch.arange(bits - 1, -1, -1)) & 1
    return torch.from_numpy(np.packbits(digits.to(torch.uint8).flatten().numpy()))


def unpack(packed: UInt8[Tensor, " bytes"], bits: int, count: int) -> Integer[Tensor, " count"]:
    """Return the first `count` integers that were packed."""
    digits = torch.from_numpy(np.unpackbits(packed.numpy(), count=count * bits)).long()
    return (digits.view(count, bits) << torch.arange(bits - 1, -1, -1)).sum(1)


def pack_weight(
    name: str, weight: Float[Tensor, "rows ..."], scales: Float[Tensor, " rows"], bits: int
) -> dict[str, Tensor]:
    """Return a weight on its grid as the tensors that stand for it."""
    highest = 2 ** (bits - 1) - 1
    rows = weight.flatten(1)
    integers = (rows / scales[:, None]).round().clamp(-highest, highest).long() + highest
    return {
        f"{name}.packed{bits}": pack(integers.flatten(), bits),
        f"{name}.scales": scales.float(),
        f"{name}.shape": torch.tensor(weight.shape),
    }


def unpack_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's tensors with every packed weight in float32, under its own name.

    Raises:
        ValueError: of a packed weight a part is missing or does not fit.
    """
    unpacked = dict(state)
    for key in state:
        found = _PACKED.fullmatch(key)
        if found is None:
            continue
        name, bits = found[1], int(found[2])
        try:
            scales, shape = unpacked.pop(f"{name}.scales"), unpacked.pop(f"{name}.shape")
            packed, rows = unpacked.pop(key), scales.shape[0]
            count = int(shape.prod())
            if packed.dtype != torch.uint8 or len(packed) != -(-count * bits // 8):
                raise ValueError(f"{len(packed)} bytes for {count} integers of {bits} bits")
            integers = unpack(packed, bits, count) - (2 ** (bits - 1) - 1)
            weight = integers.view(rows, -1).float() * scales[:, None]
            unpacked[name] = weight.view(shape.tolist())
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"the packed weight '{name}' is damaged ({reason})") from error
    return unpacked
