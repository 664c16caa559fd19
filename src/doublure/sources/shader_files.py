"""A user's own shader files as a transfer set: fragment shaders, Shadertoy's and twigl's.

Every image is one file at a random time, painted by OpenGL. All files that do not compile are
reported at once, each with its line.

Differs from the paper: it drew from 1,089 twigl programs from the web, which we may not distribute;
this source reads the user's files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from doublure.core.checks import positive
from doublure.core.optional import require
from doublure.core.protocols import Batch, StreamContext, image_batch
from doublure.core.seeding import child_seed
from doublure.shaders.glsl import VERTEX_SHADER
from doublure.shaders.opengl import GlCanvas
from doublure.shaders.prelude import complete
from doublure.sources.shaders import check_channels, fitted, worth_showing

SUFFIXES = (".frag", ".glsl", ".twigl")
# 1/10 of the files is held out; of few files, 1/10 of the time.
_HELD_OUT = 10
_MOST_ATTEMPTS = 16
_FRAMES_PER_SECOND = 60
# Line numbers in a compiler's message: Mesa's "0:12(3): ...", NVIDIA's "0(12) : ...".
_LINE = re.compile(r"^\s*(?:ERROR:\s*)?\d+(?::(\d+)|\((\d+)\))[^:]*:\s*(?:error:\s*)?(.*)")


@dataclass(frozen=True, kw_only=True)
class ShaderFiles:
    """Source: a folder of fragment shaders (.frag, .glsl, .twigl), each at random times.

    Args:
        folder: folder of .frag, .glsl and .twigl files.
        supersample: a pixel is the mean of n x n samples.
        time_range: range of the uniform random time of an image, in seconds.
    """

    folder: Path
    supersample: int = 2
    time_range: tuple[float, float] = (0.1, 10.0)

    def __post_init__(self) -> None:
        positive("supersample", self.supersample)
        if not 0 <= self.time_range[0] < self.time_range[1]:
            raise ValueError(f"time_range must be two increasing times, got {self.time_range}")

    @property
    def paths(self) -> tuple[str, ...]:
        return (str(self.folder),)

    def open(
        self, stream_context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "FileStream":
        """Compile every file and return the stream of their images.

        Raises:
            ValueError: some files do not compile; the message lists them with their lines.
        """
        check_channels(stream_context)
        files = shader_files(self.folder)
        canvas = GlCanvas()
        with canvas.context:
            triangles = compile_files(canvas.context, files)
        return FileStream(
            settings=self,
            stream_context=stream_context,
            seed=rng.initial_seed(),
            files=files,
            triangles=triangles,
            canvas=canvas,
        )


def shader_files(folder: Path) -> tuple[Path, ...]:
    """Return the shader files of a folder, sorted by name."""
    if not folder.is_dir():
        raise ValueError(f"no shader folder '{folder}'")
    files = tuple(sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES))
    if not files:
        raise ValueError(f"no shader in '{folder}': expected files named *{', *'.join(SUFFIXES)}")
    return files


def compile_files(context: Any, files: Sequence[Path]) -> tuple[Any, ...]:
    """Return the compiled program of each file, or raise with each broken file and its line."""
    triangles, broken = [], []
    for path in files:
        try:
            fragment = complete(path.read_text(encoding="utf-8"))
            program = context.program(vertex_shader=VERTEX_SHADER, fragment_shader=fragment)
            triangles.append(context.vertex_array(program, []))
        except (ValueError, require("moderngl").Error) as error:
            broken.append(f"{path}{_first_error(str(error))}")
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(files)} shaders do not compile; fix or remove them:\n  "
            + "\n  ".join(broken)
        )
    return tuple(triangles)


def _first_error(message: str) -> str:
    """Return ":line: reason" of the compiler's first error, or ": reason"."""
    for line in message.splitlines():
        found = _LINE.match(line)
        if found:
            return f":{found[1] or found[2]}: {found[3]}"
    return f": {' '.join(message.split())}"


@dataclass(kw_only=True)
class FileStream:
    """Stream of shader-file images, without state: the images of a step depend on the seed only."""

    settings: ShaderFiles
    stream_context: StreamContext
    seed: int
    files: tuple[Path, ...]
    triangles: tuple[Any, ...]
    canvas: GlCanvas

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        """Return the images of `step`, independent of the student and of earlier steps."""
        first = (
            step * self.stream_context.world + self.stream_context.rank
        ) * self.stream_context.batch_size
        places = list(range(first, first + self.stream_context.batch_size))
        images = self._paint([self._choice(place, 0) for place in places])
        empty = (~worth_showing(images)).nonzero().flatten().tolist()
        attempt = 1
        while empty:
            chosen = [self._choice(places[index], attempt) for index in empty]
            if attempt == _MOST_ATTEMPTS:
                names = sorted({str(self.files[file]) for file, _ in chosen})
                raise ValueError(
                    f"constant at {_MOST_ATTEMPTS} random times: {', '.join(names)}; remove them"
                )
            images[empty] = self._paint(chosen)
            empty = [i for i in empty if not worth_showing(images[i : i + 1]).item()]
            attempt += 1
        return image_batch(fitted(images, self.stream_context))

    def state_dict(self) -> dict[str, Any]:
        """Return {}: the stream has no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Accept only {}."""
        if state:
            raise ValueError(f"a stream of shader files has no state, got {sorted(state)}")

    def _choice(self, place: int, attempt: int) -> tuple[int, float]:
        """Return the file and the time of an image."""
        held_out = self.stream_context.split == "held_out"
        pool = list(range(len(self.files)))
        by_file = len(pool) >= _HELD_OUT
        if by_file:
            # Sorted by hash, so that a series of similar names is not split.
            pool.sort(key=lambda file: child_seed(0, self.files[file].name))
            pool = [file for i, file in enumerate(pool) if (i % _HELD_OUT == 0) == held_out]
        file = pool[child_seed(self.seed, "file", place) % len(pool)]
        moment = child_seed(self.seed, "time", place, attempt) / 2**63
        if not by_file:
            moment = _own_part(moment, held_out)
        low, high = self.settings.time_range
        return file, low + (high - low) * moment

    def _paint(self, choices: Sequence[tuple[int, float]]) -> Tensor:
        size, supersample = self.stream_context.contract.size, self.settings.supersample
        samples = (size[0] * supersample, size[1] * supersample)
        room = self.canvas.room(samples)
        with self.canvas.context:
            parts = [
                self._atlas(choices[start : start + room], samples)
                for start in range(0, len(choices), room)
            ]
        # OpenGL's first row is the lowest.
        return F.avg_pool2d(torch.cat(parts).flip(2).to(torch.float32) / 255, supersample)

    def _atlas(self, choices: Sequence[tuple[int, float]], samples: tuple[int, int]) -> Tensor:
        height, width = samples
        columns = self.canvas.prepare(len(choices), samples)
        for tile, (file, time) in enumerate(choices):
            x, y = tile % columns * width, tile // columns * height
            self.canvas.context.viewport = (x, y, width, height)
            self.canvas.context.scissor = (x, y, width, height)
            _set_inputs(self.triangles[file].program, (x, y), (width, height), time)
            self.triangles[file].render(vertices=3)
        self.canvas.context.scissor = None
        return self.canvas.read(len(choices), samples)


def _own_part(moment: float, held_out: bool) -> float:
    """Return a time in [0, 1) mapped into its split: the held-out split has 1/10 of each tenth."""
    tenth, inside = divmod(moment * _HELD_OUT, 1.0)
    share = 1 / _HELD_OUT
    inside = inside * share if held_out else share + inside * (1.0 - share)
    return (tenth + inside) / _HELD_OUT


def _set_inputs(program: Any, origin: tuple[int, int], size: tuple[int, int], time: float) -> None:
    values: dict[str, Any] = {"origin": origin, "mouse": (0.0, 0.0), "m": (0.0, 0.0)}
    values |= dict.fromkeys(("resolution", "r"), size) | dict.fromkeys(("time", "t"), time)
    values |= dict.fromkeys(("frame", "f"), float(int(time * _FRAMES_PER_SECOND)))
    for name, value in values.items():
        if name in program:
            program[name] = value
