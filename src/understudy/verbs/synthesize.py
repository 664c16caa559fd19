"""`synthesize`: any source, written to disk as a SET."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy import recipe as recipe_file
from understudy.data.image_set import ImageSet, ImageSetWriter, is_begun, read_image_set
from understudy.nets.network import Network, freeze
from understudy.nets.references import NetworkRef
from understudy.pipeline import device_named
from understudy.protocols import InputContract, Site, Source
from understudy.run_folder import RunFolderError
from understudy.seeding import from_seed
from understudy.sources.balanced import Balanced
from understudy.verbs.naming import open_network, source_named

_SHARD = 256


def synthesize(
    source: str | Source,
    *,
    count: int,
    out: str | Path,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    seed: int = 0,
    teacher: str | NetworkRef | nn.Module | None = None,
    balance: bool = False,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: int | str | None = None,
    device: str = "auto",
    set: Mapping[str, str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> dict[str, Any]:
    """Write `count` images of `source` into the SET `out`; return its description.

    Interrupted, it goes on at the last complete shard with `resume`. Memory does not grow with
    the count.

    Args:
        size: height and width; the teacher's where there is one.
        balance: keep as many images of each class the teacher names; needs a teacher.
        set: fields of the source by name, as texts.
    """
    network = None
    if teacher is not None:
        network = open_network(
            teacher, say=say, weights=weights, mean=mean, std=std, classes=classes
        )
    contract = _contract(network, size, channels)
    made = _with_fields(source_named(source), set or {})
    if balance:
        made = Balanced(source=made, pool_size=count)
    folder = _prepared(Path(out), resume=resume, overwrite=overwrite)
    if resume and is_begun(folder) and (folder / "set.json").exists():
        say(f"{folder} is finished already")
        return _told(read_image_set(folder))
    where = device_named(device)
    steps = -(-count // _SHARD)
    site = Site(contract=contract, device=where, batch_size=min(_SHARD, count), steps=steps)
    frozen = None if network is None else freeze(network.to(where))
    stream = made.open(site, frozen, from_seed(seed))
    return _told(_write(stream, site, count, folder, made, seed, watch))


def _write(
    stream: Any,
    site: Site,
    count: int,
    folder: Path,
    source: Source,
    seed: int,
    watch: Callable[[int, dict[str, Any]], None],
) -> ImageSet:
    table = recipe_file.to_table(source)
    first = stream.draw(0, None)
    labels = first.labels is not None
    contract = site.contract
    writer = ImageSetWriter(
        folder,
        count,
        contract.size,
        contract.channels,
        labels,
        source=str(table.get("kind", type(source).__name__)),
        settings=table,
        seed=seed,
    )
    step = writer.written // site.batch_size
    if step:
        stream.load_state_dict(torch.load(_state(folder, writer.written), weights_only=True))
    while writer.written < count:
        batch = first if step == 0 else stream.draw(step, None)
        left = count - writer.written
        pixels = (batch.images[:left] * 255).round().to(torch.uint8)
        # The state of the next draw is on disk before the shard that makes it the next one.
        after = writer.written + len(pixels)
        torch.save(stream.state_dict(), _state(folder, after))
        before = _state(folder, writer.written)
        writer.append(pixels, None if batch.labels is None else batch.labels[:left])
        before.unlink(missing_ok=True)
        step += 1
        watch(site.steps, {"step": step, "images_per_second": float("nan")})
    made = writer.finish()
    _state(folder, count).unlink(missing_ok=True)
    return made


def _state(folder: Path, written: int) -> Path:
    return folder / f"stream-{written}.pt"


def _contract(
    network: Network | None, size: int | tuple[int, int] | None, channels: int | None
) -> InputContract:
    sides = (size, size) if isinstance(size, int) else size
    if network is not None:
        contract = network.contract
        return dataclasses.replace(contract, size=sides or contract.size)
    depth = channels or 3
    return InputContract(
        size=sides or (32, 32), channels=depth, mean=(0.5,) * depth, std=(0.25,) * depth, classes=1
    )


def _with_fields(source: Source, texts: Mapping[str, str]) -> Source:
    return recipe_file.replace_fields(source, texts) if texts else source


def _prepared(folder: Path, *, resume: bool, overwrite: bool) -> Path:
    if folder.exists() and any(folder.iterdir()) and not resume:
        if not overwrite:
            raise RunFolderError(
                f"{folder} exists; go on with --resume, replace it with --overwrite, "
                "or choose another --out"
            )
        if not is_begun(folder):
            raise RunFolderError(f"{folder} is not a SET; refusing to overwrite it")
        shutil.rmtree(folder)
    return folder


def _told(made: ImageSet) -> dict[str, Any]:
    return {
        "folder": str(made.folder),
        "source": made.source,
        "settings": made.settings,
        "seed": made.seed,
        "counts": dict(made.counts),
        "digest": made.digest,
    }
