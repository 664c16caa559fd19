"""Partial input contracts from several places, and their merge into one contract."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from doublure.core.protocols import Contract, InputContract
from doublure.nets.references import NetworkRef


@dataclass(frozen=True, kw_only=True)
class PartialContract:
    """The part of an input contract that one place states; None for unknown fields."""

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: int | None = None
    names: tuple[str, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    output: str | None = None


EMPTY_CONTRACT = PartialContract()


def partial_contract(place: NetworkRef | Contract) -> PartialContract:
    """Return the partial contract of a reference or of another network's contract."""
    said: dict[str, Any] = {
        item.name: getattr(place, item.name, None) for item in fields(PartialContract)
    }
    if said["classes"] is None and said["names"] is not None:
        said["classes"] = len(said["names"])
    return PartialContract(**said)


def first_value(places: Sequence[PartialContract], name: str, length: int | None = None) -> Any:
    """Return the value of the first place that states it.

    Args:
        length: skips values for another number of channels or classes, except in the first place:
            that one is explicit, and a contradiction must be reported.
    """
    for i, place in enumerate(places):
        value = getattr(place, name)
        if value is not None and (i == 0 or length is None or len(value) == length):
            return value
    return None


def merge_contracts(
    places: Sequence[PartialContract], size: tuple[int, int], channels: int, ref: str
) -> tuple[InputContract, list[str]]:
    """Return the contract, and notes on fields that no place states.

    Args:
        size: used if no place states one.
        ref: the network's REF, for the notes.
    """
    notes = []
    classes = first_value(places, "classes")
    stated_size = first_value(places, "size")
    if stated_size is None:
        notes.append(f"nothing states the image size of {ref}: {size[0]} x {size[1]}; see --size")
    mean, std = (first_value(places, name, length=channels) for name in ("mean", "std"))
    if mean is None or std is None:
        notes.append(
            f"nothing states the normalisation of {ref}: inputs are in [0, 1] (mean 0, std 1); if "
            f"it was trained on normalised images, use --mean and --std"
        )
    rest = {name: first_value(places, name) for name in ("interpolation", "crop_pct", "output")}
    contract = InputContract(
        size=stated_size or size,
        channels=channels,
        mean=mean or (0.0,) * channels,
        std=std or (1.0,) * channels,
        classes=classes,
        names=first_value(places, "names", length=classes),
        **{name: value for name, value in rest.items() if value is not None},
    )
    return contract, notes
