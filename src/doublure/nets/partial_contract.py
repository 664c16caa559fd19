"""What several places say of an input contract, and the one contract that comes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from doublure.core.protocols import Contract, InputContract
from doublure.nets.references import NetworkRef


@dataclass(frozen=True, kw_only=True)
class PartialContract:
    """What one place says of an input contract; None where it is silent."""

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
    """Return what a reference or another network's contract says."""
    said: dict[str, Any] = {
        item.name: getattr(place, item.name, None) for item in fields(PartialContract)
    }
    if said["classes"] is None and said["names"] is not None:
        said["classes"] = len(said["names"])
    return PartialContract(**said)


def first_value(places: Sequence[PartialContract], name: str, length: int | None = None) -> Any:
    """Return what the first place states that is not silent about it.

    Args:
        length: passes over what belongs to another number of channels or classes, except in the
            first place: there a person said it, and a contradiction must be heard.
    """
    for i, place in enumerate(places):
        value = getattr(place, name)
        if value is not None and (i == 0 or length is None or len(value) == length):
            return value
    return None


def merge_contracts(
    places: Sequence[PartialContract], size: tuple[int, int], channels: int, ref: str
) -> tuple[InputContract, list[str]]:
    """Return the contract, and notes on what nobody stated.

    Args:
        size: taken where no place states one.
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
            f"nothing states the normalisation of {ref}: images are fed in [0, 1] (mean 0, std 1); "
            "if it was trained on normalised ones, say --mean and --std"
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
