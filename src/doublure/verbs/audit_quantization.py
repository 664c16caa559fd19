"""`audit quantization`: how badly can few bits go wrong on this network, and where?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from doublure.audits.worst_case_quantization import (
    WorstCaseQuantization,
    find_worst_case,
    to_json,
)
from doublure.core.protocols import Source, StreamContext
from doublure.core.seeding import child, from_seed
from doublure.data.datasets import batches, open_data
from doublure.data.own_files import RunFolderError
from doublure.engine.run_folder import write_json, write_whole
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.reports.quantization_audit import render
from doublure.sources.shaders import Shaders
from doublure.verbs.naming import open_network, source_named

JSON, PAGE = "audit.json", "audit.html"


def audit_quantization(
    model: str | NetworkRef | nn.Module,
    *,
    out: str | Path,
    transfer: str | Source | None = None,
    eval: str | None = None,
    bits: Sequence[int] = WorstCaseQuantization.bits,
    mean_bits: float = WorstCaseQuantization.mean_bits,
    policies: int = WorstCaseQuantization.policies,
    count: int = 128,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
    seed: int = 0,
    allow_code: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return what an audit of a network's quantization found, written to `out` as JSON and a page.

    Args:
        model: a REF or a network; weights, mean, std, size and classes describe it.
        transfer: the images that are asked about, without labels; shader images where nothing is
            said.
        eval: labelled data in its place; accuracies are told as well.
        bits: widths of layers' inputs that a policy may give; weights have 8.
        mean_bits: of every policy, over the layers.
        policies: how many are drawn at random.
        count: of images, at least four.
        allow_code: files whose code a run's folder may run.
        say: is told lines worth a person's eye.
    """
    settings = WorstCaseQuantization(bits=tuple(bits), mean_bits=mean_bits, policies=policies)
    if transfer is not None and eval is not None:
        raise ValueError("eval brings its own images; leave transfer away")
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise RunFolderError(f"{folder} is not empty; choose another --out")
    described: dict[str, Any] = {"weights": weights, "mean": mean, "std": std}
    described |= {"size": size, "classes": classes}
    network = open_network(model, verb="score", say=say, allow_code=allow_code, **described)
    network = network.to("cpu").eval()
    rng = from_seed(seed)
    labels = None
    if eval is None:
        images = _drawn(network, transfer, count, rng)
    else:
        images, labels = _labelled(network, eval, count, rng)
    found = find_worst_case(network, images, settings, child(rng, "audit"), labels)
    typed = model.ref if isinstance(model, NetworkRef) else model
    name = typed if isinstance(typed, str) else network.reference or type(network.body).__name__
    name += f" --weights {weights}" if weights is not None else ""
    summary = {"verb": "audit quantization", "model": name, "seed": seed, **to_json(found)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JSON, summary)
    write_whole(folder / PAGE, render(name, found, images))
    return summary


def _drawn(
    network: Network, transfer: str | Source | None, count: int, rng: torch.Generator
) -> torch.Tensor:
    source = Shaders() if transfer is None else source_named(transfer, contract=network.contract)
    context = StreamContext(
        contract=network.contract, device=torch.device("cpu"), batch_size=count, steps=1
    )
    stream = source.open(context, network, child(rng, "source"))
    return stream.draw(0, None).images


def _labelled(
    network: Network, eval: str, count: int, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    data = open_data(eval, network.contract, split="test", labels=True)
    assert data.labels is not None
    places = torch.randperm(len(data), generator=child(rng, "labelled"))[:count].sort().values
    images = torch.cat([pixels.float() / 255 for pixels, _ in batches(data, 250)])[places]
    turn = torch.randperm(len(places), generator=child(rng, "order"))
    return images[turn], data.labels[places][turn]
