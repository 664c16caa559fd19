"""Scenes: images with a class for every pixel, in folders of image files and label maps.

    FOLDER/images/NAME.jpg      with FOLDER/labels/NAME.png beside it, or
    FOLDER/SPLIT/images/...     where the set is divided into train, val and test

A label map is an 8-bit PNG, grey or with a palette, whose values are the classes' indices. Names of
classes are read from FOLDER/classes.txt, one a line, where there is one. 255 never counts; other
values that do not count are said behind the folder: FOLDER:ignore=11 or FOLDER:ignore=0,11.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from PIL import Image
from torch import Tensor

from doublure.core.protocols import InputContract
from doublure.data.arrays import Indices, as_positions, channels_first, in_threads
from doublure.data.class_folders import find_split, list_images, listing_digest
from doublure.data.class_names import read_names
from doublure.data.datasets import CACHE_BYTES
from doublure.data.image_folder import UnreadableImagesError
from doublure.data.resizing import check_fittable, fit_image, image_to_pixels, size_change

# The value of a pixel that does not count.
IGNORED = 255
CLASS_NAMES = "classes.txt"
_IGNORE = ":ignore="
_PARTS = ("", "train", "test", "val", "valid", "validation")
_INDEXED = ("L", "P")
# Images whose pixels give mean and deviation of a new network's contract.
_SAMPLE = 128
_SMALLEST_STD = 1e-3
_HASHED_AT_ONCE = 64

Read = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneData:
    """Images, and their label maps where they are wanted, sized for one network.

    Args:
        paths: of the images.
        label_paths: of the label maps, None where labels are not wanted.
        ignored: values of a label map that do not count, 255 beside.
        palette: the colour of each value, where the label maps have one.
        notes: what the person who gave the data should know.
        pixels: all images, where they fit into memory.
        maps: all label maps, likewise.
    """

    root: Path
    paths: tuple[Path, ...]
    label_paths: tuple[Path, ...] | None
    contract: InputContract
    ignored: tuple[int, ...] = ()
    palette: UInt8[np.ndarray, "values 3"] | None = None
    notes: tuple[str, ...] = ()
    pixels: UInt8[np.ndarray, "count height width channels"] | None = None
    maps: UInt8[np.ndarray, "count height width"] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def digest(self) -> str:
        """A cheap identity of the content."""
        return listing_digest(self.root, (*self.paths, *(self.label_paths or ())))

    def images(self, indices: Indices) -> UInt8[Tensor, "batch channels height width"]:
        """Return the images at `indices`, as the contract wants them."""
        places = as_positions(indices)
        if self.pixels is not None:
            return channels_first(self.pixels[places])
        read = partial(_read_image, contract=self.contract)
        return channels_first(np.stack(in_threads(read, [self.paths[place] for place in places])))

    def labels(self, indices: Indices) -> UInt8[Tensor, "batch height width"]:
        """Return the class of every pixel of the scenes at `indices`; `IGNORED` does not count."""
        places = as_positions(indices)
        if self.maps is not None:
            return torch.from_numpy(self.maps[places])
        assert self.label_paths is not None  # demanded when they were opened
        read = partial(_read_map, contract=self.contract, ignored=self.ignored)
        paths = [(self.paths[place], self.label_paths[place]) for place in places]
        return torch.from_numpy(np.stack(in_threads(read, paths)))

    def part(self, places: Sequence[int]) -> "SceneData":
        """Return the scenes at these places alone."""
        chosen = list(places)
        labels = self.label_paths
        return replace(
            self,
            paths=tuple(self.paths[place] for place in chosen),
            label_paths=None if labels is None else tuple(labels[place] for place in chosen),
            pixels=None if self.pixels is None else self.pixels[chosen],
            maps=None if self.maps is None else self.maps[chosen],
        )

    def hashes(self) -> list[bytes]:
        """Return a hash of each image's pixels."""
        return [
            hashlib.blake2b(image.numpy().tobytes(), digest_size=8).digest()
            for start in range(0, len(self), _HASHED_AT_ONCE)
            for image in self.images(range(start, min(start + _HASHED_AT_ONCE, len(self))))
        ]

    def values(self) -> set[int]:
        """Return the values that any label map holds."""
        return {
            value
            for place in range(len(self))
            for value in self.labels([place]).flatten().bincount().nonzero()[:, 0].tolist()
        }

    def class_shares(self) -> Float64[Tensor, " classes"]:
        """Return which share of the pixels that count each class has."""
        counts = torch.zeros(self.contract.classes, dtype=torch.float64)
        for place in range(len(self)):
            values = self.labels([place])
            counts += values[values != IGNORED].bincount(minlength=len(counts))
        return counts / counts.sum().clamp(min=1)


def names_scenes(spec: str | Path) -> bool:
    """Return whether DATA is a folder of scenes; only names are looked at."""
    folder, ignored = taken_apart(str(spec))
    return ignored is not None or any(
        (folder / part / "images").is_dir() and (folder / part / "labels").is_dir()
        for part in _PARTS
    )


def taken_apart(spec: str) -> tuple[Path, tuple[int, ...] | None]:
    """Return the folder of DATA and the values that it says do not count, None where it does not.

    Raises:
        ValueError: what stands behind `:ignore=` is no list of numbers.
    """
    place, mark, values = spec.rpartition(_IGNORE)
    if not mark:
        return Path(spec), None
    try:
        return Path(place), tuple(int(value) for value in values.split(","))
    except ValueError as error:
        raise ValueError(
            f"{spec}: behind {_IGNORE} stand the values that do not count, as in {_IGNORE}11"
        ) from error


def open_scenes(
    spec: str | Path,
    contract: InputContract,
    *,
    split: Literal["train", "test"],
    labels: bool,
    skip_bad: bool = False,
    cache_bytes: int = CACHE_BYTES,
) -> SceneData:
    """Return the scenes that `spec` names; without labels, any folder of images will do.

    Args:
        split: which part, where the set is divided.
        skip_bad: leave out scenes of which a file cannot be read, instead of raising.
        cache_bytes: decoded scenes are kept in memory up to this size.

    Raises:
        ValueError: in one line: which file is missing or wrong, and the way out.
    """
    check_fittable(contract)
    folder, ignored = taken_apart(str(spec))
    if not folder.is_dir():
        raise ValueError(f"there is no folder '{folder}'; scenes are a folder of images and labels")
    root = find_split(folder, split)
    if not (root / "images").is_dir():
        if labels:
            raise ValueError(
                f"{root} has no images and labels; name a folder that holds both, or one with "
                "train and test parts that do"
            )
        paths = list_images(root, labels=False).paths
    else:
        paths = list_images(root / "images", labels=False).paths
    found = SceneData(
        root=root,
        paths=paths,
        label_paths=_label_paths(root, paths) if labels else None,
        contract=contract,
        ignored=ignored or (),
    )
    return _read(found, skip_bad, cache_bytes)


def scene_contract(
    spec: str | Path, names: tuple[str, ...] | None = None, classes: int | None = None
) -> InputContract:
    """Return the contract of a network made for these scenes alone.

    Args:
        names: of the classes, None for those of the folder's classes.txt, where it has one.
        classes: how many there are, None for as many as the names or the label maps say.
    """
    folder, ignored = taken_apart(str(spec))
    root = find_split(folder, "train")
    beside = [place / CLASS_NAMES for place in (root, folder) if (place / CLASS_NAMES).is_file()]
    if names is None and classes is None and beside:
        names = read_names(beside[0])
    first = list_images(root / "images", labels=False).paths[0]
    with Image.open(first) as image:
        size = image.height, image.width
    plain = InputContract(
        size=size, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3, classes=IGNORED, output="map"
    )
    data = open_scenes(spec, plain, split="train", labels=True)
    if names is None and classes is None:
        classes = 1 + max(data.values() - {IGNORED, *(ignored or ())}, default=0)
    places = torch.linspace(0, len(data) - 1, min(len(data), _SAMPLE)).long()
    pixels = data.images(places).double() / 255
    return replace(
        plain,
        mean=tuple(round(value, 4) for value in pixels.mean((0, 2, 3)).tolist()),
        std=tuple(round(max(v, _SMALLEST_STD), 4) for v in pixels.std((0, 2, 3)).tolist()),
        classes=len(names) if names is not None else classes or 1,
        names=names,
    )


def _label_paths(root: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the label map of each image, by its name."""
    below = root / "images"
    maps = [(root / "labels" / path.relative_to(below)).with_suffix(".png") for path in paths]
    if missing := [place for place in maps if not place.is_file()]:
        raise ValueError(
            f"{len(missing)} of {len(maps)} images in {below} have no label map: there is no "
            f"{missing[0]}; add it, or remove the image"
        )
    return tuple(maps)


def _read(data: SceneData, skip_bad: bool, cache_bytes: int) -> SceneData:
    """Return the scenes with every file read once, kept where all of them fit into memory."""
    contract = data.contract
    needed = len(data) * contract.size[0] * contract.size[1] * (contract.channels + 1)
    kept = needed <= cache_bytes
    bad: dict[Path, str] = {}

    def read(place: int) -> tuple[np.ndarray | None, np.ndarray | None, bool]:
        path = data.paths[place]
        pixels = labels = None
        try:
            with Image.open(path) as image:
                scaled = size_change((image.height, image.width), contract) is not None
                pixels = image_to_pixels(image, contract)
        except (OSError, SyntaxError, EOFError) as error:
            bad[path] = str(error).splitlines()[0] if str(error) else type(error).__name__
            return None, None, False
        if data.label_paths is not None:
            labels = _read_map(
                (path, data.label_paths[place]), contract=contract, ignored=data.ignored
            )
        return (pixels, labels, scaled) if kept else (None, None, scaled)

    found = in_threads(read, range(len(data)))
    if bad and not skip_bad:
        raise UnreadableImagesError(data.root, bad, len(data))
    places = [place for place, path in enumerate(data.paths) if path not in bad]
    if not places:
        raise ValueError(f"none of the {len(data)} images in {data.root} can be read")
    scaled = sum(found[place][2] for place in places)
    notes = [f"{scaled} images were scaled to {contract.size[0]}x{contract.size[1]}"] * bool(scaled)
    notes += [f"{len(bad)} unreadable images were left out"] * bool(bad)
    data = replace(data.part(places), notes=tuple(notes), palette=_palette(data))
    if not kept:
        return data
    pixels, maps = (
        [row for place in places if (row := found[place][i]) is not None] for i in (0, 1)
    )
    return replace(data, pixels=np.stack(pixels), maps=np.stack(maps) if maps else None)


def _palette(data: SceneData) -> UInt8[np.ndarray, "values 3"] | None:
    if data.label_paths is None:
        return None
    with Image.open(data.label_paths[0]) as image:
        if image.mode != "P":
            return None
        colours = image.getpalette() or []
    return np.array(colours, dtype=np.uint8).reshape(-1, 3)


def _read_image(
    path: Path, *, contract: InputContract
) -> UInt8[np.ndarray, "height width channels"]:
    with Image.open(path) as image:
        return image_to_pixels(image, contract)


def _read_map(
    paths: tuple[Path, Path], *, contract: InputContract, ignored: tuple[int, ...]
) -> UInt8[np.ndarray, "height width"]:
    """Return the label map of an image at the contract's size; `IGNORED` does not count.

    Raises:
        ValueError: it is no 8-bit map, of another size than its image, or names unknown classes.
    """
    image_path, path = paths
    try:
        with Image.open(path) as opened, Image.open(image_path) as image:
            if opened.mode not in _INDEXED:
                raise ValueError(
                    f"{path} has Pillow's mode {opened.mode}; a label map is an 8-bit PNG, grey or "
                    "with a palette, whose values are class indices"
                )
            if opened.size != image.size:
                shapes = ["x".join(map(str, part.size)) for part in (opened, image)]
                raise ValueError(
                    f"{path} is {shapes[0]} pixels, its image {shapes[1]}; they must be alike"
                )
            values = np.array(opened)
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it") from error
    values[np.isin(values, ignored)] = IGNORED
    unknown = np.unique(values[(values >= contract.classes) & (values != IGNORED)])
    if len(unknown):
        raise ValueError(
            f"{path} holds the value {unknown[0]}, but there are {contract.classes} classes, 0 to "
            f"{contract.classes - 1}; if such pixels do not count, name the data as "
            f"FOLDER{_IGNORE}{','.join(map(str, unknown))}"
        )
    nearest = replace(contract, interpolation="nearest")
    return np.asarray(fit_image(Image.fromarray(values), nearest))
