"""Scenes and what networks make of them, as pictures: image | teacher | student | truth.

A class has the colour of the data's own palette, where its label maps have one. Otherwise colours
are those of CamVid in its usual order of eleven classes, and a fixed row of others behind.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from doublure.data.scenes import IGNORED, SceneData
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze

# Brostow, Fauqueur, Cipolla: Semantic object classes in video (2009): sky, building, pole, road,
# pavement, tree, sign, fence, car, pedestrian, cyclist.
_CAMVID = (
    *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222)),
    *((128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
)
ROWS = 5


def colours(
    count: int, palette: UInt8[np.ndarray, "values 3"] | None = None
) -> UInt8[np.ndarray, "256 3"]:
    """Return a colour for each class; black for what does not count."""
    made = np.random.default_rng(0).integers(40, 230, (256, 3), dtype=np.uint8)
    made[: len(_CAMVID)] = _CAMVID
    if palette is not None:
        made[: min(count, len(palette))] = palette[:count]
    made[IGNORED] = 0
    return made


def coloured(
    classes: Integer[Tensor, "batch height width"], table: UInt8[np.ndarray, "256 3"]
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Return maps of classes as pictures."""
    made: UInt8[np.ndarray, "batch height width 3"] = table[classes.cpu().numpy()]
    return made


@torch.no_grad()
def draw_rows(
    networks: Mapping[str, Network], data: SceneData, count: int = ROWS
) -> tuple[tuple[str, ...], UInt8[np.ndarray, "rows columns height width 3"]]:
    """Return names and pictures of the columns: the image, each network's map, the truth.

    The scenes are spread evenly over the data.

    Args:
        networks: by role.
    """
    places = torch.linspace(0, len(data) - 1, min(count, len(data))).long()
    pixels = data.images(places)
    table = colours(data.contract.classes, data.palette)
    shown = pixels.permute(0, 2, 3, 1).numpy()
    columns = {"image": shown if shown.shape[3] == 3 else shown.repeat(3, 3)}
    for role, network in networks.items():
        output = freeze(network)(pixels.to(device_of(network)).float() / 255)
        columns[role] = coloured(output.argmax(1), table)
    if data.label_paths is not None:
        columns["truth"] = coloured(data.labels(places), table)
    return tuple(columns), np.stack([*columns.values()], 1)
