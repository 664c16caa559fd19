"""Shader programs rendered by torch, many images of one program at once, on any device.

Every sample of a pixel is computed independently, by the same operations in the same order: its
bits do not depend on the other images or on the division into blocks.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.shaders.program import Instances

# Floats in a block, for each thread. A program works on about ten blocks at a time: 2^16 (256 KiB
# each) was the fastest of 2^13 to 2^17 at 64 and at 224 pixels; below, torch's calls cost the most.
_BLOCK = 1 << 16
# On an accelerator only memory limits a block.
_DEVICE_BLOCK = 1 << 22


class TorchPainter:
    """Renders programs on one device, for one thread at a time; it stores only working memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._memory = torch.empty(0, dtype=torch.float32, device=device)
        self._grids: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def paint(
        self, batch: Sequence[Instances], size: tuple[int, int], supersample: int
    ) -> Float[Tensor, "images 3 height width"]:
        """Return the images of every program in turn."""
        total = sum(instances.count for instances in batch)
        images = torch.empty((total, 3, size[0] * size[1]), dtype=torch.float32, device=self.device)
        first = 0
        for instances in batch:
            self._paint_into(images[first : first + instances.count], instances, size, supersample)
            first += instances.count
        return images.view(total, 3, *size)

    def _paint_into(
        self, images: Tensor, instances: Instances, size: tuple[int, int], supersample: int
    ) -> None:
        code, batch, pixels = instances.program.code, *images.shape[::2]
        samples = supersample**2
        fixed = self._fixed_operands(instances)
        grid = self._grid(size, supersample)
        step = max(1, min(pixels, self._block() // (batch * samples)))
        for start in range(0, pixels, step):
            stop = min(start + step, pixels)
            here = [axis[:, start:stop].reshape(1, -1).expand(batch, -1) for axis in grid]
            shape = (code.num_registers, batch, samples * (stop - start))
            values = [*here, *fixed, *self._registers(shape)]
            for function, places, result in code.varying:
                function(*[values[place] for place in places], out=values[result])
            for channel, place in enumerate(code.outputs):
                value = values[place].expand(shape[1:])
                images[:, channel, start:stop] = value.view(batch, samples, -1).mean(1)

    def _block(self) -> int:
        if self.device.type == "cpu":
            return _BLOCK * torch.get_num_threads()
        return _DEVICE_BLOCK

    def _fixed_operands(self, instances: Instances) -> list[Tensor]:
        code = instances.program.code
        literals = torch.tensor(code.literals, dtype=torch.float32, device=self.device)
        # Torch has no unsigned arithmetic: the same 32 bits, read as a signed number.
        signed = [(value + 2**31) % 2**32 - 2**31 for value in code.int_literals]
        int_literals = torch.tensor(signed, dtype=torch.int32, device=self.device)
        floats, ints = (
            block.to(self.device, non_blocking=True).unsqueeze(-1)
            for block in (instances.floats, instances.ints)
        )
        return [*literals.unbind(), *int_literals.unbind(), *floats.unbind(), *ints.unbind()]

    def _registers(self, shape: tuple[int, int, int]) -> list[Tensor]:
        """Return registers, each as floats, then each as integers."""
        needed = shape[0] * shape[1] * shape[2]
        if self._memory.numel() < needed:
            self._memory = torch.empty(needed, dtype=torch.float32, device=self.device)
        floats = self._memory[:needed].view(shape)
        return [*floats.unbind(), *floats.view(torch.int32).unbind()]

    def _grid(self, size: tuple[int, int], supersample: int) -> tuple[Tensor, Tensor]:
        """Return x and y of every sample, [sample of the pixel, pixel], top row first."""
        key = (*size, supersample)
        if key not in self._grids:
            height, width = size
            across, down = width * supersample, height * supersample
            # Half the shorter side is one unit. GLSL computes the same sums and products.
            unit = 2.0 / min(across, down)
            x = (torch.arange(across, dtype=torch.float32) + (0.5 - 0.5 * across)) * unit
            y = ((0.5 * down - 0.5) - torch.arange(down, dtype=torch.float32)) * unit
            x, y = x.expand(down, -1), y.unsqueeze(-1).expand(-1, across)
            self._grids[key] = (self._by_sample(x, supersample), self._by_sample(y, supersample))
        return self._grids[key]

    def _by_sample(self, samples: Tensor, supersample: int) -> Tensor:
        rows = samples.shape[0] // supersample
        blocks = samples.reshape(rows, supersample, -1, supersample)
        return blocks.permute(1, 3, 0, 2).reshape(supersample**2, -1).to(self.device)
