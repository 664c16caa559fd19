"""A drawn scene with its label map, and windows of both."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from drawing import context, picture, tile
from PIL import Image

from doublure.core.protocols import InputContract
from doublure.core.seeding import from_seed
from doublure.sources.scenes import Scenes

SIZE = (96, 128)
CONTRACT = InputContract(
    size=SIZE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=4, output="map"
)
COLOURS = np.array([[120, 160, 220], [90, 140, 80], [110, 105, 110], [190, 70, 60]], dtype=np.uint8)
WINDOWS = 4


def draw_scene() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and classes: sky, grass, a road, a house."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    classes = (rows > 45 + 6 * np.sin(columns / 17)).astype(np.uint8)
    classes[(rows > 50) & (np.abs(columns - 70) < (rows - 40) * 0.7)] = 2
    classes[25:62, 12:44] = 3
    noise = np.random.default_rng(0).normal(0, 9, (*SIZE, 3))
    return (COLOURS[classes] + noise).clip(0, 255).astype(np.uint8), classes


def coloured(classes: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(COLOURS)[classes.long()].permute(2, 0, 1) / 255


def main() -> None:
    pixels, classes = draw_scene()
    with TemporaryDirectory() as folder:
        for part, image in (("images", pixels), ("labels", classes)):
            Path(folder, part).mkdir()
            Image.fromarray(image).save(Path(folder, part, "scene.png"))
        source = Scenes(data=folder, labels=True, size=(64, 64), scale=(0.8, 1.6), held_out=0.0)
        batch = source.open(context(CONTRACT, WINDOWS), None, from_seed(3)).draw(0, None)
    assert batch.labels is not None
    whole = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    images, maps = [whole, *batch.images], [torch.from_numpy(classes), *batch.labels]
    with picture("scenes", 220, colours=64, scale=1.25) as figure:
        grid = figure.subplots(2, WINDOWS + 1, width_ratios=[SIZE[1] / SIZE[0], *[1] * WINDOWS])
        for place in range(WINDOWS + 1):
            tile(grid[0][place], images[place])
            tile(grid[1][place], coloured(maps[place]), below="" if place else "the scene")
        grid[1][2].set_xlabel("windows of it", labelpad=3)


if __name__ == "__main__":
    main()
