"""`audit saliency`: how much of a heat map is a choice of baseline, setting or method?"""

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from doublure.audits import saliency_run
from doublure.audits.saliency import (
    RANDOM,
    Output,
    SaliencyAudit,
    gives_gradients,
    without_gradients,
)
from doublure.audits.saliency_analysis import Measured, analyse, finding
from doublure.audits.saliency_run import Explained, PartFolder, choose_images
from doublure.core.protocols import Source
from doublure.core.seeding import child_seed, from_seed
from doublure.data.datasets import open_data
from doublure.data.own_files import RunFolderError
from doublure.engine.run_folder import RunFolder, write_json, write_whole
from doublure.engine.run_options import find_device
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef
from doublure.reports.saliency import render
from doublure.verbs.comparing import draw
from doublure.verbs.naming import open_network, source_named

PLAN, AUDIT, PAGE, MAPS, RECORDS = (
    "plan.json",
    "audit.json",
    "audit.html",
    "maps.npz",
    "records.jsonl",
)
_PARTS = "parts"
AGAINST = "against"


def audit_saliency(
    model: str | NetworkRef | nn.Module,
    data: str | None = None,
    *,
    out: str | Path,
    transfer: str | Source | None = None,
    against: str | NetworkRef | nn.Module | None = None,
    images: int = 50,
    methods: Sequence[str] = SaliencyAudit.methods,
    baselines: Sequence[str] = SaliencyAudit.baselines,
    masks: int = SaliencyAudit.num_masks,
    num_seeds: int = SaliencyAudit.num_seeds,
    output: Output = SaliencyAudit.output,
    budget: float | None = None,
    seed: int = 0,
    device: str = "auto",
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_code: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare heat maps of `model` over baselines, settings, seeds and methods; change nothing.

    Writes audit.json, audit.html, maps.npz and records.jsonl into `out`; returns what audit.json
    holds.

    Args:
        data: DATA; of labelled images those that the network gets right are explained.
        transfer: a source of images, in place of data.
        against: another network; are its maps those of the model?
        images: to explain, 8 or more.
        methods: of rise, occlusion, lime, extremal, integrated-gradients and gradient.
        baselines: two or more, of black, white, grey, mean, own-mean, blur, noise, shuffled,
            inpainted and neutral.
        masks: of rise.
        num_seeds: of each random method, 2 or more.
        output: what is explained, "probability" or "logit".
        budget: seconds; fewer images are taken where all would take longer.
        resume: go on with what is in `out`.
        allow_code: files whose code a run's folder may run.
        say: callback for log messages.
        watch: callback for progress.
    """
    if (data is None) == (transfer is None):
        raise ValueError("audit saliency needs images: name either --data or --transfer")
    where = find_device(device)
    said = {"weights": weights, "mean": mean, "std": std, "size": size, "classes": classes}
    network = _borrow(model, where, say, allow_code, **said)
    others: dict[str, Network] = {}
    if against is not None:
        others[AGAINST] = _check_contract(network, _borrow(against, where, say, allow_code))
    settings = SaliencyAudit(
        methods=tuple(methods),
        baselines=tuple(baselines),
        num_masks=masks,
        num_seeds=num_seeds,
        output=output,
    )
    plan: dict[str, Any] = {
        "seed": seed,
        "model": _named(model),
        "data": _named(data or transfer),
        "against": None if against is None else _named(against),
    }
    with closing(RunFolder(Path(out), record=PLAN)) as folder:
        going_on = folder.check(resume=resume, overwrite=overwrite)
        explained = _explained(network, data, transfer, images, seed)
        settings = _with_what_it_gives(settings, network, explained, say)
        fitted = folder.read_json(PLAN)["images"] if going_on else None
        explained = _fitting(settings, network, others, explained, budget, fitted, say)
        plan |= {"images": len(explained.images), **_plain(asdict(settings))}
        _begin(folder, plan, going_on, overwrite)
        parts = PartFolder(folder.file(_PARTS))
        tell = _progress(watch)
        measured = saliency_run.measure(settings, network, others, explained, seed, parts, tell)
        return _write(folder, measured, explained, plan)


def _borrow(
    model: str | NetworkRef | nn.Module,
    device: torch.device,
    say: Callable[[str], None],
    allow_code: Sequence[str],
    **said: Any,
) -> Network:
    """Return a frozen copy of the network that was named or handed over."""
    opened = open_network(model, verb="audit_saliency", say=say, allow_code=allow_code, **said)
    frozen = freeze(opened)
    assert isinstance(frozen, Network)
    return frozen.to(device)


def _begin(folder: RunFolder, plan: Mapping[str, Any], going_on: bool, overwrite: bool) -> None:
    """Write the plan, or check that what is gone on with has the same."""
    if not going_on:
        folder.begin(overwrite=overwrite)
        write_json(folder.file(PLAN), plan)
        return
    kept = folder.read_json(PLAN)
    changed = [name for name in plan if kept.get(name) != plan[name]]
    if changed:
        raise RunFolderError(
            f"{folder.path} holds an audit with other {', '.join(changed)}; "
            "choose another --out, or replace it with --overwrite"
        )


def _progress(watch: Callable[[str], None]) -> Callable[[int, int], None]:
    began = time.monotonic()

    def tell(done: int, whole: int) -> None:
        left = (time.monotonic() - began) / done * (whole - done)
        watch(f"{done} of {whole} images, about {_duration(left)} left")

    return tell


def _write(
    folder: RunFolder, measured: Measured, explained: Explained, plan: Mapping[str, Any]
) -> dict[str, Any]:
    """Write all files of a finished audit and return what audit.json holds."""
    found = analyse(measured, int(plan["seed"]))
    verdict = finding(found, measured.settings)
    audit = {"verdict": verdict.verdict, "summary": verdict.summary, "plan": dict(plan), **found}
    pixels = (explained.images * 255).round().to(torch.uint8).numpy()
    arrays: dict[str, Any] = {name: maps.astype(np.float32) for name, maps in measured.maps.items()}
    arrays |= {"images": pixels, "targets": np.array(explained.targets)}
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_whole(folder.file(MAPS), packed.getvalue())
    rows = saliency_run.records(measured, explained.targets)
    write_whole(folder.file(RECORDS), "".join(f"{json.dumps(row)}\n" for row in rows))
    write_json(folder.file(AUDIT), audit)
    write_whole(folder.file(PAGE), render(audit, arrays, measured.ranked))
    folder.finish()
    return audit


def _named(given: object) -> str:
    if isinstance(given, NetworkRef):
        return given.ref
    return given if isinstance(given, str) else f"python:{type(given).__name__}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return tuples as the lists that JSON makes of them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _check_contract(network: Network, other: Network) -> Network:
    for name in ("size", "channels", "classes"):
        one, two = getattr(network.contract, name), getattr(other.contract, name)
        if one != two:
            raise ValueError(
                f"the networks' maps cannot be compared: {name} is {one} of --model "
                f"and {two} of --against"
            )
    return other


def _explained(
    network: Network, data: str | None, transfer: str | Source | None, count: int, seed: int
) -> Explained:
    """Return the images to explain: of labelled ones those that the network gets right."""
    if data is None:
        assert transfer is not None
        source = source_named(transfer, contract=network.contract)
        drawn = torch.cat(draw(source, network, count, child_seed(seed, "images"), "held_out"))
        return choose_images(network, drawn, None, count)
    opened = open_data(data, network.contract, split="test")
    order = torch.randperm(len(opened), generator=from_seed(child_seed(seed, "images")))
    # Enough for a network that gets one in four right.
    order = order[: max(4 * count, 256)]
    labels = None if opened.labels is None else opened.labels[order]
    return choose_images(network, opened.images(order).float() / 255, labels, count)


def _with_what_it_gives(
    settings: SaliencyAudit, network: Network, explained: Explained, say: Callable[[str], None]
) -> SaliencyAudit:
    device = next(iter(network.state_dict().values())).device
    if gives_gradients(network, explained.images[0].to(device)):
        return settings
    kept = without_gradients(settings)
    gone = [name for name in settings.methods if name not in kept.methods]
    gone += [name for name in settings.baselines if name not in kept.baselines]
    if gone:
        say(f"this network gives no gradients: {', '.join(gone)} left out")
    return kept


def _fitting(
    settings: SaliencyAudit,
    network: Network,
    others: Mapping[str, Network],
    explained: Explained,
    budget: float | None,
    fitted: int | None,
    say: Callable[[str], None],
) -> Explained:
    """Tell the cost, and return as many images as the budget allows.

    Args:
        fitted: how many an interrupted audit took.
    """
    height, width = explained.images.shape[2:]
    passes = settings.passes((height, width), (RANDOM, *others))
    pace = saliency_run.seconds_a_pass(network, explained.images[0], settings.batch_size)
    count = len(explained.images)
    if fitted is not None:
        count = min(count, fitted)
    elif budget is not None:
        count = min(count, int(budget / (passes * pace)))
        if count < saliency_run.FEWEST:
            needed = _duration(saliency_run.FEWEST * passes * pace)
            raise ValueError(
                f"{saliency_run.FEWEST} images take about {needed}; raise --budget, or take fewer "
                "--methods, --baselines or --masks"
            )
    say(
        f"{count} images, {passes:,} passes each, {count * passes:,} in all: "
        f"about {_duration(count * passes * pace)}"
    )
    return replace(explained, images=explained.images[:count], targets=explained.targets[:count])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
