"""Do torch and OpenGL paint the same shader images, fast enough, and do they reach every class?

Agreement: 500 images of each family at 32 x 32, 20 programs of 25 images. Speed: images of all
families in the papers' number of programs, against reading JPEG files of the same size from disk
(out of the system's file cache), decoded by Pillow into one float tensor. Seconds are processor
seconds of this process on one torch thread; Mesa's renderer adds threads of its own, which count.
Coverage: the classes a CIFAR-10 ResNet-20 sees in 2,000 images, where DOUBLURE_DATA is set.

    python benchmarks/shaders.py [agreement] [speed] [coverage]
"""

import itertools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from doublure.core.protocols import InputContract, Source, StreamContext
from doublure.core.seeding import from_seed
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.shaders.families import FAMILIES, draw_program
from doublure.shaders.opengl import GlPainter
from doublure.shaders.torch_backend import TorchPainter
from doublure.sources.leaves import Leaves
from doublure.sources.noise import Noise
from doublure.sources.shaders import Shaders, ShaderStream

RESULT = Path(__file__).parent / "results" / "shaders.json"
CPU = torch.device("cpu")
PROGRAMS, IMAGES = 20, 25
TOLERANCE = 2 / 255
SIZES = {32: 128, 64: 64, 224: 16}
ROUNDS = 7
SEEDS = (0, 1, 2)


def agreement() -> dict[str, Any]:
    """Return, per family, how far OpenGL's images are from torch's."""
    opengl, torch_painter = GlPainter(), TorchPainter(CPU)
    rows = {}
    for family in FAMILIES:
        differences = []
        for seed in range(PROGRAMS):
            seeds = torch.arange(IMAGES) + 1000 * seed
            times = torch.rand(IMAGES, generator=from_seed(seed), dtype=torch.float64) * 9.9 + 0.1
            batch = [draw_program(100 + seed, family).instances(seeds, times)]
            painted = (p.paint(batch, (32, 32), 2) for p in (opengl, torch_painter))
            differences.append(next(painted).sub(next(painted)).abs())
        difference = torch.cat(differences)
        rows[family] = {
            "pixels_within_tolerance": (difference.amax(1) <= TOLERANCE).double().mean().item(),
            "largest_mean_difference": difference.mean((1, 2, 3)).max().item(),
        }
        print(family, rows[family], flush=True)
    return {
        "tolerance": TOLERANCE,
        "images_per_family": PROGRAMS * IMAGES,
        "renderer": opengl.canvas.context.info["GL_RENDERER"],
        "opengl": opengl.canvas.context.info["GL_VERSION"],
        "worst_pixels_within_tolerance": min(r["pixels_within_tolerance"] for r in rows.values()),
        "worst_mean_difference": max(r["largest_mean_difference"] for r in rows.values()),
        "families": rows,
    }


def stream_context(size: int, batch_size: int) -> StreamContext:
    contract = InputContract(
        size=(size, size),
        channels=3,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        classes=10,
    )
    return StreamContext(contract=contract, device=CPU, batch_size=batch_size, steps=1)


def opened(size: int, batch_size: int, **settings: Any) -> ShaderStream:
    return Shaders(**settings).open(stream_context(size, batch_size), None, from_seed(0))


def speed() -> dict[str, Any]:
    """Return images per second of the three ways to come by an image, at three sizes."""
    # Few enough programs that each is built, or compiled, before the clock starts.
    lap = len(FAMILIES)
    rows = {}
    for size, batch_size in SIZES.items():
        steps = math.ceil(lap * 8 / batch_size)
        streams = {
            name: opened(size, batch_size, num_programs=lap, backend=name)
            for name in ("torch", "gl")
        }
        with tempfile.TemporaryDirectory() as folder:
            files = written(streams["torch"], steps, Path(folder))
            makers: dict[str, Callable[[], int]] = {
                name: partial(shown, stream, steps, itertools.count())
                for name, stream in streams.items()
            }
            makers["jpeg"] = partial(decode, files)
            rows[str(size)] = rates(makers)
        print(size, rows[str(size)], flush=True)
    return {"sizes": rows, **cost()}


def cost() -> dict[str, Any]:
    """Return what a program costs before its first image, and how many operations a pixel takes."""
    began = time.process_time()
    programs = [draw_program(seed, family) for family in FAMILIES for seed in range(3)]
    return {
        "milliseconds_to_build_a_program": round(
            1000 * (time.process_time() - began) / len(programs), 2
        ),
        "torch_operations_per_sample": round(
            statistics.mean(len(program.code.varying) for program in programs)
        ),
        "samples_per_pixel": 4,
    }


def shown(stream: ShaderStream, steps: int, following: Iterator[int]) -> int:
    """Draw the stream's next steps and return how many images they have."""
    return sum(len(stream.draw(next(following), None).images) for _ in range(steps))


def written(stream: ShaderStream, steps: int, folder: Path) -> list[Path]:
    """Return JPEG files of the stream's images."""
    images = torch.cat([stream.draw(step, None).images for step in range(steps)])
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    files = [folder / f"{index}.jpg" for index in range(len(pixels))]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file, quality=90)
    return files


def decode(files: list[Path]) -> int:
    """Read the files' images into one float tensor and return how many there are."""
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return len(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255)


def rates(makers: dict[str, Callable[[], int]]) -> dict[str, Any]:
    """Return images per processor second of each maker, timed in turn: the median of rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for turn in range(ROUNDS + 1):
        for name, make in makers.items():
            began = time.process_time()
            count = make()
            if turn:
                seconds[name].append((time.process_time() - began) / count)
    medians = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    return {
        "images_per_second": {name: round(rate) for name, rate in medians.items()},
        "torch_to_jpeg": round(medians["torch"] / medians["jpeg"], 2),
        "gl_to_jpeg": round(medians["gl"] / medians["jpeg"], 2),
    }


def coverage() -> dict[str, Any] | str:
    """Return how evenly a CIFAR-10 network's answers to 2,000 images lie over its classes."""
    folder = os.environ.get("DOUBLURE_DATA")
    if not folder:
        return "not measured: DOUBLURE_DATA is not set"
    teacher = load(
        NetworkRef(
            ref="builtin/resnet20",
            weights=str(Path(folder) / "cifar10-resnet" / "resnet20-12fca82f.th"),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            classes=10,
        )
    ).eval()
    sources: dict[str, Source] = {
        "shaders": Shaders(),
        "shaders, figures among them": Shaders(families=tuple(FAMILIES)),
        "dead leaves": Leaves(),
        "Gaussian noise": Noise(),
    }
    rows = {name: spread(source, teacher) for name, source in sources.items()}
    print(json.dumps(rows, indent=1), flush=True)
    return {"images": 2000, "seeds": len(SEEDS), "goal_relative_entropy": 0.85, "sources": rows}


@torch.no_grad()
def spread(source: Source, teacher: nn.Module) -> dict[str, Any]:
    """Return the relative entropy and the smallest share of classes, over the seeds."""
    shares = []
    for seed in SEEDS:
        stream = source.open(stream_context(32, 250), None, from_seed(seed))
        answers = torch.cat([teacher(stream.draw(k, None).images).argmax(1) for k in range(8)])
        shares.append(torch.bincount(answers, minlength=10) / len(answers))
    entropies = [
        (-share * share.clamp_min(1e-12).log()).sum().item() / math.log(10) for share in shares
    ]
    return {
        "relative_entropy": round(statistics.mean(entropies), 3),
        "spread": round(statistics.stdev(entropies), 3),
        "smallest_class_share": round(statistics.mean(share.min().item() for share in shares), 4),
        "class_shares": [round(value, 3) for value in torch.stack(shares).mean(0).tolist()],
    }


def main() -> None:
    torch.set_num_threads(1)
    parts = {"agreement": agreement, "speed": speed, "coverage": coverage}
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result["question"] = __doc__.splitlines()[0]
    for name in sys.argv[1:] or parts:
        result[name] = parts[name]()
    packages = ("torch", "moderngl", "pillow", "numpy")
    result["torch_threads"] = torch.get_num_threads()
    result["versions"] = {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
