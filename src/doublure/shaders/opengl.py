"""Drawing with OpenGL without a screen: a context, the atlas of a batch, a check of the driver."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from doublure.core.optional import require
from doublure.shaders.families import draw_program, program_tape
from doublure.shaders.glsl import VERTEX_SHADER, emit_glsl
from doublure.shaders.program import Instances
from doublure.shaders.torch_backend import TorchPainter

WAY_OUT = (
    "install the system's EGL (Debian, Ubuntu: apt-get install libegl1 libgl1-mesa-dri; "
    "Fedora: dnf install mesa-libEGL mesa-dri-drivers), or use backend='torch'"
)
# After days, a driver may return corrupt frames without any error. Like Shaders21k, we compare a
# fixed frame every 10,000 images, with a tolerance of 0.1.
_IMAGES_BETWEEN_CHECKS = 10_000
_CHECK_TOLERANCE = 0.1
# Size of the cache of compiled shaders; the papers' list has 1,089 programs.
_MOST_SHADERS = 1536
_LARGEST_ATLAS = 4096


class OpenGLError(RuntimeError):
    """OpenGL is missing, or its results are wrong; the message has the reason and a remedy."""


def open_context() -> Any:
    """Return a moderngl context without a window, or raise with a remedy."""
    moderngl = require("moderngl")
    try:
        context = moderngl.create_context(standalone=True, backend="egl", require=330)
    except Exception as error:
        if type(error) is not Exception:  # what moderngl's context backends raise, bare
            raise
        reason = (str(error) or repr(error)).splitlines()[0]
        raise OpenGLError(f"no OpenGL 3.3 without a screen here ({reason}); {WAY_OUT}") from error
    # Unused objects are deleted in `gc()` only: at another time, the number could belong to an
    # object of another context.
    context.gc_mode = "context_gc"
    return context


class GlCanvas:
    """An OpenGL context and a growing framebuffer with images as the tiles of an atlas.

    There may be several in one process: draw inside `with canvas.context`.
    """

    def __init__(self) -> None:
        self.context = open_context()
        self._framebuffer: Any = None
        self._columns = 1

    def room(self, size: tuple[int, int]) -> int:
        """Return the number of tiles of this size in one atlas."""
        return max(1, _LARGEST_ATLAS // size[0]) * max(1, _LARGEST_ATLAS // size[1])

    def prepare(self, count: int, size: tuple[int, int]) -> int:
        """Allocate `count` tiles and return their number per row."""
        self._columns = min(count, max(1, _LARGEST_ATLAS // size[1]))
        least = (self._columns * size[1], -(-count // self._columns) * size[0])
        if self._framebuffer is None or any(
            has < needs for has, needs in zip(self._framebuffer.size, least, strict=True)
        ):
            most = self.context.info["GL_MAX_TEXTURE_SIZE"]
            if max(least) > most:
                raise ValueError(
                    f"images of {size[0]} x {size[1]} samples are too large for this OpenGL, "
                    f"which paints {most} at most; use backend='torch'"
                )
            old = self._framebuffer.size if self._framebuffer else (0, 0)
            grown = tuple(max(pair) for pair in zip(old, least, strict=True))
            self._framebuffer = self.context.framebuffer([self.context.texture(grown, 3)])
        self._framebuffer.use()
        return self._columns

    def read(self, count: int, size: tuple[int, int]) -> UInt8[Tensor, "count 3 height width"]:
        """Return the first tiles, with rows in OpenGL's order, the lowest first."""
        height, width = size
        rows = -(-count // self._columns)
        area = (0, 0, self._columns * width, rows * height)
        data = self._framebuffer.read(area, components=3, alignment=1)
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(rows, height, -1, width, 3)
        tiles = torch.from_numpy(pixels.transpose(0, 2, 4, 1, 3).copy())
        return tiles.view(-1, 3, height, width)[:count]


class GlPainter:
    """Paints programs through OpenGL: one draw call per program, one reading back per batch."""

    def __init__(self) -> None:
        self.canvas = GlCanvas()
        self.num_draw_calls = 0
        self._shaders: OrderedDict[tuple[int, str], tuple[Any, Any]] = OrderedDict()
        self._unchecked = _IMAGES_BETWEEN_CHECKS

    def paint(
        self, batch: Sequence[Instances], size: tuple[int, int], supersample: int
    ) -> Float[Tensor, "images 3 height width"]:
        """Return the images of every program in turn, on the CPU, in steps of 1/255.

        Raises:
            OpenGLError: the driver does not paint a fixed image as it should.
        """
        self._unchecked += sum(instances.count for instances in batch)
        parts = _parts(batch, self.canvas.room(size))
        with self.canvas.context as context:
            if self._unchecked >= _IMAGES_BETWEEN_CHECKS:
                self._unchecked = 0
                self._check_the_driver()
            images = torch.cat([self._atlas(part, size, supersample) for part in parts])
            context.gc()
        return images

    def _atlas(self, batch: Sequence[Instances], size: tuple[int, int], supersample: int) -> Tensor:
        height, width = size
        total = sum(instances.count for instances in batch)
        columns = self.canvas.prepare(total, size)
        first = 0
        for instances in batch:
            low, high = first // columns, (first + instances.count - 1) // columns + 1
            self.canvas.context.viewport = (0, low * height, columns * width, (high - low) * height)
            program, triangle = self._shader(instances)
            program["size"] = (width, height)
            program["columns"], program["first"] = columns, first
            program["count"], program["supersample"] = instances.count, supersample
            self._constants(instances).use(0)
            triangle.render(vertices=3)
            self.num_draw_calls += 1
            first += instances.count
        return self.canvas.read(total, size) / 255

    def _shader(self, instances: Instances) -> tuple[Any, Any]:
        """Return the compiled program and its vertex array."""
        key = (instances.program.seed, instances.program.family)
        if key not in self._shaders:
            context = self.canvas.context
            program = context.program(
                vertex_shader=VERTEX_SHADER, fragment_shader=emit_glsl(program_tape(*key))
            )
            self._shaders[key] = (program, context.vertex_array(program, []))
            if len(self._shaders) > _MOST_SHADERS:
                self._shaders.popitem(last=False)
        self._shaders.move_to_end(key)
        return self._shaders[key]

    def _constants(self, instances: Instances) -> Any:
        """Return a texture with a column of constants for every image."""
        values = torch.cat([instances.floats, instances.ints.to(torch.float32)])
        if len(values) == 0:
            values = torch.zeros(1, instances.count)
        shape = (values.shape[1], values.shape[0])
        data = values.contiguous().numpy().tobytes()
        return self.canvas.context.texture(shape, 1, data, dtype="f4")

    def _check_the_driver(self) -> None:
        """Render one fixed image and compare it with torch's result."""
        program = draw_program(1, "leaves")
        fixed = [program.instances(torch.tensor([1]), torch.tensor([1.0], dtype=torch.float64))]
        wanted = TorchPainter(torch.device("cpu")).paint(fixed, (32, 32), 2)
        difference = (self._atlas(fixed, (32, 32), 2) - wanted).abs().mean().item()
        if not difference < _CHECK_TOLERANCE:
            raise OpenGLError(
                f"the OpenGL driver ({self.canvas.context.info['GL_RENDERER']}) paints a fixed "
                f"image wrongly: mean difference {difference:.3f}, allowed {_CHECK_TOLERANCE}; "
                f"images since the last check are suspect; start again, or use backend='torch'"
            )


def _parts(batch: Sequence[Instances], room: int) -> list[list[Instances]]:
    """Return the batch in lists of at most `room` images."""
    parts: list[list[Instances]] = [[]]
    left = room
    for instances in batch:
        start = 0
        while start < instances.count:
            if left == 0:
                parts.append([])
                left = room
            stop = min(instances.count, start + left)
            parts[-1].append(instances.part(start, stop))
            left -= stop - start
            start = stop
    return parts
