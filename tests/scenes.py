"""Drawn scenes with label maps: blue sky (0) over grey ground (1), a red box (2) somewhere."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (32, 48)
COLOURS = np.array([[90, 140, 230], [110, 110, 100], [210, 40, 40]])


def draw_scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and classes of one scene."""
    rng = np.random.default_rng(seed)
    height, width = size
    classes = np.zeros(size, dtype=np.uint8)
    classes[rng.integers(height // 3, 2 * height // 3) :] = 1
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    classes[top : top + height // 3, left : left + width // 4] = 2
    noise = rng.normal(0, 12, (*size, 3))
    return (COLOURS[classes] + noise).clip(0, 255).astype(np.uint8), classes


def write_scene(folder: Path, name: str, pixels: np.ndarray, classes: np.ndarray) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    Image.fromarray(classes).save(folder / "labels" / f"{name}.png")


def write_scenes(folder: Path, count: int, first: int = 0, size: tuple[int, int] = SIZE) -> Path:
    for seed in range(first, first + count):
        write_scene(folder, f"scene{seed:03}", *draw_scene(seed, size))
    return folder


def write_split(folder: Path, train: int = 16, test: int = 6) -> Path:
    """Return a folder with a train and a test part, and names of the classes."""
    write_scenes(folder / "train", train)
    write_scenes(folder / "test", test, first=1000)
    (folder / "classes.txt").write_text("sky\nground\nbox\n")
    return folder
