"""`synthesize`: any source, written to disk as a SET.

With `balance` an image is kept while there are fewer than ceil(count / classes) images of its class
by the teacher; every image is kept once, unlike in `sources.Balanced`, which repeats rare ones.
After ten times the count of draws, any image is kept.

For a source that optimises its images, `optimisation_path.png` in the folder of the SET shows
intermediate images of the first batch. The images are the same as without it.
"""

import contextlib
import dataclasses
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from doublure import recipe_file
from doublure.core.protocols import (
    InputContract,
    OptimisingStream,
    Source,
    SourceOnDisk,
    Stream,
    StreamContext,
    parts_of,
)
from doublure.core.seeding import from_seed
from doublure.data.checkpoints import DAMAGE, first_line
from doublure.data.image_set import ImageSet, ImageSetWriter, is_begun, is_image_set, read_image_set
from doublure.data.own_files import RunFolderError
from doublure.engine.run_folder import RunFolder, write_whole
from doublure.engine.run_options import find_device
from doublure.nets.memory_format import to_channels_last_
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.verbs.naming import network_named, open_network, source_named
from doublure.verbs.synthesis_streams import Even, Followed, Tally, to_bytes

_SHARD = 256
OPTIMISATION_PICTURE = "optimisation_path.png"


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
    weights_key: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: int | str | None = None,
    device: str = "auto",
    set: Mapping[str, str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_code: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> dict[str, Any]:
    """Write `count` images of `source` into the SET `out`; return its description.

    With `resume`, an interrupted call continues after the last complete shard. Memory does not grow
    with the count.

    Args:
        size: height and width; by default the teacher's.
        balance: keep equally many images of each class by the teacher; needs a teacher.
        set: fields of the source by key, as texts.
        allow_code: files whose code may run if the teacher's folder needs it.
    """
    network = None
    if teacher is not None:
        network = open_network(
            teacher,
            verb="synthesize",
            say=say,
            weights=weights,
            weights_key=weights_key,
            mean=mean,
            std=std,
            size=size,
            classes=classes,
            allow_code=allow_code,
        )
    contract = _contract(network, size, channels)
    made = _with_fields(source_named(source, contract=contract), set or {})
    inputs = [source, teacher, weights, *_paths_of(made)]
    named = [str(name) for name in inputs if isinstance(name, str | Path)]
    with contextlib.closing(RunFolder(Path(out), record="set.json", noun="SET")) as folder:
        folder.check(resume=resume, overwrite=overwrite, inputs=named)
        return _synthesize(
            made,
            folder,
            count=count,
            contract=contract,
            network=network,
            teacher=teacher,
            seed=seed,
            balance=balance,
            device=device,
            resume=resume,
            overwrite=overwrite,
            say=say,
            watch=watch,
        )


def _synthesize(
    made: Source,
    run: RunFolder,
    *,
    count: int,
    contract: InputContract,
    network: Network | None,
    teacher: str | NetworkRef | nn.Module | None,
    seed: int,
    balance: bool,
    device: str,
    resume: bool,
    overwrite: bool,
    say: Callable[[str], None],
    watch: Callable[[int, dict[str, Any]], None],
) -> dict[str, Any]:
    folder = run.path
    table = recipe_file.to_table(made)
    if balance and teacher is not None:
        table |= {"balanced_by": network_named(teacher).ref}
    if resume and is_image_set(folder):
        finished = read_image_set(folder)
        _check_same(finished, count, contract, table, seed)
        say(f"{folder} is already finished")
        return _told(finished)
    where = find_device(device)
    steps = -(-count // _SHARD)
    context = StreamContext(
        contract=contract, device=where, batch_size=min(_SHARD, count), steps=steps
    )
    frozen = None if network is None else freeze(network.to(where))
    if frozen is not None:
        to_channels_last_(frozen)
    glance = dataclasses.replace(context, batch_size=2, steps=1, draft=True)
    labels = made.open(glance, frozen, from_seed(seed)).draw(0, None).labels is not None
    stream: Stream = made.open(context, frozen, from_seed(seed))
    if isinstance(stream, OptimisingStream) and frozen is not None:
        stream = Followed(stream, frozen, contract, folder / OPTIMISATION_PICTURE)
    stream = tally = Tally(stream)
    if balance:
        if frozen is None or teacher is None:
            raise ValueError("balancing needs the classes of a teacher; use --teacher")
        stream = even = Even(stream, frozen, contract.classes, count)
    run.take(afresh=overwrite or not is_begun(folder))
    written = _write(stream, labels, contract, count, folder, table, seed, watch)
    run.finish()
    if balance and even.surplus:
        say(
            f"{even.surplus} of {count} images are of classes that were already complete: the "
            f"source has few of the others"
        )
    if tally.told:
        say(tally.told)
    return _told(written)


def _paths_of(source: Source) -> list[str]:
    """Return the files that a source reads."""
    parts = (part for part in parts_of(source) if isinstance(part, SourceOnDisk))
    return [path for part in parts for path in part.paths]


def _write(
    stream: Stream,
    labels: bool,
    contract: InputContract,
    count: int,
    folder: Path,
    table: dict[str, Any],
    seed: int,
    watch: Callable[[int, dict[str, Any]], None],
) -> ImageSet:
    begun = time.perf_counter()
    writer = ImageSetWriter(
        folder,
        count,
        contract.size,
        contract.channels,
        labels,
        source=str(table["kind"]),
        settings=table,
        seed=seed,
    )
    step, first = 0, writer.written
    if first:
        step = _go_on(stream, _state(folder, first))
    while writer.written < count:
        batch = stream.draw(step, None)
        step += 1
        left = count - writer.written
        pixels = to_bytes(batch.images[:left])
        if not len(pixels):
            continue
        # The state for the next draw is on disk before the shard of this one.
        _keep(stream, step, _state(folder, writer.written + len(pixels)))
        before = _state(folder, writer.written)
        writer.append(pixels, None if batch.labels is None else batch.labels[:left])
        before.unlink(missing_ok=True)
        seconds = time.perf_counter() - begun
        rate = (writer.written - first) / seconds
        watch(count, {"step": writer.written, "seconds": seconds, "images_per_second": rate})
    made = writer.finish()
    _state(folder, count).unlink(missing_ok=True)
    return made


def _keep(stream: Stream, step: int, path: Path) -> None:
    file = io.BytesIO()
    torch.save({"stream": stream.state_dict(), "step": step}, file)
    write_whole(path, file.getvalue())


def _go_on(stream: Stream, path: Path) -> int:
    """Restore the stream, and return the next step."""
    try:
        state = torch.load(path, weights_only=True)
        stream.load_state_dict(state["stream"])
        return int(state["step"])
    except DAMAGE as error:
        raise RunFolderError(
            f"{path} is missing or damaged ({first_line(error)}); restart with --overwrite"
        ) from error


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


def _check_same(
    finished: ImageSet, count: int, contract: InputContract, table: Mapping[str, Any], seed: int
) -> None:
    """Raise unless the finished set fits the arguments."""
    there = {
        "count": len(finished),
        "size": tuple(finished.images.shape[1:3]),
        "channels": finished.images.shape[3],
        "settings": finished.settings,
        "seed": finished.seed,
    }
    asked = {
        "count": count,
        "size": contract.size,
        "channels": contract.channels,
        "settings": json.loads(json.dumps(table)),  # as from the file
        "seed": seed,
    }
    if differing := [name for name in asked if asked[name] != there[name]]:
        raise RunFolderError(
            f"--resume, but {finished.folder} is finished with another {', '.join(differing)}; "
            "replace it with --overwrite, or choose another --out"
        )


def _told(made: ImageSet) -> dict[str, Any]:
    return {
        "folder": str(made.folder),
        "source": made.source,
        "settings": made.settings,
        "seed": made.seed,
        "counts": dict(made.counts),
        "digest": made.digest,
    }
