"""All maps and curves of a saliency audit, image by image, each kept as soon as it is made.

A map is one file, named by image and configuration, so that an audit that was killed goes on where
it stood, and ends with the same bytes.
"""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from doublure.audits import saliency_measures as measures
from doublure.audits.saliency import (
    MODEL,
    RANDOM,
    Configuration,
    MapMaker,
    SaliencyAudit,
    randomised,
)
from doublure.audits.saliency_analysis import Measured
from doublure.data.own_files import make_folder
from doublure.engine.run_folder import write_whole
from doublure.nets.network import Network

# Fewer images say nothing of a median over them.
FEWEST = 8
_CURVES = "curves"


@dataclass(frozen=True)
class PartFolder:
    """Arrays by image and name, a file each."""

    path: Path

    def _file(self, place: int, name: str) -> Path:
        return self.path / f"{place:05}" / f"{name.replace('/', '+')}.npz"

    def load(self, place: int, name: str) -> dict[str, Tensor] | None:
        """Return what was kept under a name; None where there is nothing."""
        file = self._file(place, name)
        if not file.exists():
            return None
        with np.load(file) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    def save(self, place: int, name: str, arrays: Mapping[str, Tensor]) -> None:
        """Keep arrays, whole or not at all."""
        file = self._file(place, name)
        make_folder(file.parent)
        buffer = io.BytesIO()
        plain: dict[str, Any] = {key: value.numpy() for key, value in arrays.items()}
        np.savez(buffer, **plain)
        write_whole(file, buffer.getvalue())


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Images to explain, and the class of each whose score is explained."""

    images: Float[Tensor, "images channels height width"]
    targets: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.images) < FEWEST:
            raise ValueError(
                f"an audit needs {FEWEST} images or more that the network names, "
                f"got {len(self.images)}"
            )


def choose_images(
    network: Network,
    images: Float[Tensor, "images channels height width"],
    labels: Tensor | None,
    count: int,
) -> Explained:
    """Return the first images that the network classifies correctly, and what it calls them.

    Without labels every image counts.
    """
    kept, targets = [], []
    device = next(iter(network.state_dict().values())).device
    with torch.no_grad():
        for start in range(0, len(images), 64):
            part = images[start : start + 64]
            called = network(part.to(device)).argmax(1).cpu()
            for place, target in enumerate(called.tolist()):
                if labels is None or target == int(labels[start + place]):
                    kept.append(start + place)
                    targets.append(target)
            if len(kept) >= count:
                break
    return Explained(images=images[kept[:count]], targets=tuple(targets[:count]))


def seconds_a_pass(network: Network, image: Tensor, batch_size: int) -> float:
    """Return how long a forward pass of an image takes, in a batch of that size."""
    device = next(iter(network.state_dict().values())).device
    batch = image[None].expand(batch_size, -1, -1, -1).to(device)
    with torch.no_grad():
        network(batch).cpu()
        began = time.perf_counter()
        network(batch).cpu()
    return (time.perf_counter() - began) / batch_size


def measure(
    settings: SaliencyAudit,
    network: Network,
    others: Mapping[str, Network],
    explained: Explained,
    seed: int,
    parts: PartFolder,
    watch: Callable[[int, int], None] = lambda _done, _all: None,
) -> Measured:
    """Return every map and curve; what `parts` holds is not made again.

    Args:
        others: networks whose maps are held against the model's, by name.
        watch: is told images done, and all.
    """
    random = {RANDOM: randomised(network, seed)}
    maker = MapMaker(settings, {MODEL: network, **random, **others}, seed)
    configurations = settings.configurations((RANDOM, *others))
    maps: dict[str, list[np.ndarray]] = {item.name: [] for item in configurations}
    curves: list[dict[str, Tensor]] = []
    for place, (image, target) in enumerate(zip(explained.images, explained.targets, strict=True)):
        own: dict[str, Tensor] = {}
        for item in configurations:
            kept = parts.load(place, item.name)
            if kept is None:
                kept = {"map": maker.map(image, place, target, item)}
                parts.save(place, item.name, kept)
            own[item.name] = kept["map"]
            maps[item.name].append(kept["map"].numpy())
        scored = parts.load(place, _CURVES)
        if scored is None:
            said = maker.neutrality(image, place, target)
            scored = maker.curves(image, place, target, own)
            scored |= {key: torch.tensor(values).double() for key, values in said.items()}
            parts.save(place, _CURVES, scored)
        curves.append(scored)
        watch(place + 1, len(explained.images))
    columns = {key: np.stack([part[key].numpy() for part in curves]) for key in curves[0]}
    return Measured(
        settings=settings,
        maps={name: np.stack(rows) for name, rows in maps.items()},
        ranked=columns.pop("ranked"),
        own=columns.pop("own"),
        neutrality=columns,
        others=tuple(others),
        num_classes=network.contract.classes,
    )


def records(measured: Measured, targets: Sequence[int]) -> list[dict[str, object]]:
    """Return one flat record for each map and each deletion score."""
    settings = measured.settings
    configurations = settings.configurations((RANDOM, *measured.others))
    rows: list[dict[str, object]] = []
    baseline = settings.baselines[0]
    firsts = {name: Configuration(method=name, baseline=baseline).name for name in settings.methods}
    for item in configurations:
        flat = [
            part.reshape(len(part), -1)
            for part in (measured.maps[item.name], measured.maps[firsts[item.method]])
        ]
        for place, likeness in enumerate(measures.spearman(flat[0], flat[1]).tolist()):
            fields = {"image": place, "target": targets[place], **vars(item)}
            rows.append({"record": "map", **fields, "likeness": likeness})
    areas = measures.normalised_area(measured.ranked)
    for place, image in enumerate(areas):
        for explainer, name in zip(image, settings.methods, strict=False):
            for order, values in zip(("MoRF", "LeRF"), explainer.tolist(), strict=True):
                for baseline, area in zip(settings.baselines, values, strict=True):
                    row = {"record": "deletion", "image": place, "method": name, "order": order}
                    said = None if area != area else area
                    rows.append({**row, "baseline": baseline, "area": said})
    return rows
