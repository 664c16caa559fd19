"""How each candidate of `shrink` is made: pruned, repaired, taught, by the verbs that are there.

What learns is a run of `distill` by its default recipe. All candidates are shown the same images,
which are made once: shared out among them, the time would give each a few hundred.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from doublure import tasks
from doublure.compress.pruning import Pruning
from doublure.compress.shrinking_plan import Candidate, Plan, shallower_siblings
from doublure.core.checks import positive
from doublure.core.protocols import Source
from doublure.core.seeding import child_seed, from_seed
from doublure.data.student_file import DESCRIPTION, read_student
from doublure.engine.distill import transform
from doublure.engine.loading import rebuilds
from doublure.nets.batchnorm_statistics import batchnorm_layers
from doublure.nets.network import Network, count_parameters
from doublure.nets.references import NetworkRef
from doublure.networks import load, save
from doublure.sources.surrogate import Surrogate
from doublure.verbs.comparing import SHADERS
from doublure.verbs.distill import distill
from doublure.verbs.naming import open_network
from doublure.verbs.synthesize import synthesize

CANDIDATES = "candidates"
_IMAGES = "images"
# By which filters are judged and layers repaired.
_JUDGED_BY = 512
# Below this many pixels a side the default recipe makes no images of the teacher's statistics.
_TINY = 16
# A pruned network begins near its teacher, as one does that inherits: the loop of `auto` for those.
NEAR: Mapping[str, str] = {
    "optimizer": "adamw",
    "betas": "[0.9, 0.99]",
    "learning_rate": "0.003",
    "weight_decay": "0.0",
    "warmup": "0.04",
    "gradient_clip": "5.0",
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where candidates are made, and what from.

    Args:
        teacher: as a verb takes it.
        network: the same, opened.
        root: the folder of the whole.
        transfer: what is shown, in place of what would be made.
        options: that every verb takes: seed, device, allow_code, say, watch.
    """

    teacher: NetworkRef | nn.Module
    network: Network
    root: Path
    transfer: Source | None
    batch_size: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive("batch_size", self.batch_size)

    def folder(self, name: str) -> Path:
        """Return the folder of a candidate."""
        return self.root / CANDIDATES / name


def make(candidate: Candidate, seconds: float, images: Source | None, bench: Bench) -> Network:
    """Return the network of a candidate, made within about that many seconds, or gone on with.

    Args:
        images: that it is shown; None for what the default recipe draws.
    """
    if candidate.kind == "int8":
        return bench.network
    begins: str | NetworkRef | Network | None = candidate.student
    if candidate.share is not None:
        begins = _pruned(candidate, candidate.share, images or SHADERS, bench)
    folder, pruned = bench.folder(candidate.name), candidate.share is not None
    distill(
        bench.teacher,
        begins,
        out=folder,
        transfer=images,
        from_scratch=pruned,  # which keeps the weights that it comes with
        budget=seconds,
        batch_size=bench.batch_size,
        audit=False,
        resume=True,
        **dict(bench.options) | ({"set": NEAR} if pruned else {}),
    )
    if isinstance(begins, Network):  # no name makes its architecture again
        descriptions = {task.name: task.description for task in tasks.TASKS}
        begins.body.load_state_dict(read_student(folder, descriptions)[0])
        return begins
    return open_network(str(folder), verb="shrink", allow_code=bench.options["allow_code"])


def _pruned(
    candidate: Candidate, share: float, images: Source, bench: Bench
) -> NetworkRef | Network:
    """Return a network without a share of its filters, repaired; saved where a name rebuilds it."""
    network, folder = bench.network, bench.root / "checkpoint" / candidate.name
    if candidate.begins is not None:
        allowed = bench.options["allow_code"]
        network = open_network(
            str(bench.folder(candidate.begins)), verb="shrink", allow_code=allowed
        )
    kept = rebuilds(network.reference)
    if not (kept and (folder / DESCRIPTION).exists()):
        made = transform(
            network,
            network,
            Pruning(ratio=share, repair=True),
            images,
            contract=network.contract,
            num_images=_JUDGED_BY,
            rng=from_seed(child_seed(bench.options["seed"], "pruning", candidate.name)),
        )
        assert isinstance(made, Network)
        if not kept:
            return made.requires_grad_()
        folder.mkdir(parents=True, exist_ok=True)
        save(made, folder)
    return NetworkRef(ref=str(folder))


def images_of(plan: Plan, bench: Bench) -> Source | None:
    """Return the images that all candidates are shown, made once; None where none are made."""
    if bench.transfer is not None or not plan.images:
        return bench.transfer
    folder = bench.root / "checkpoint" / _IMAGES
    synthesize(
        "short-inversion",
        count=plan.images,
        out=folder,
        teacher=bench.teacher,
        resume=True,
        **bench.options,
    )
    return Surrogate(data=str(folder))


def inverts(network: Network) -> bool:
    """Return whether images are worth making of a network's own statistics."""
    return bool(batchnorm_layers(network)) and min(network.contract.size) >= _TINY


def smaller_siblings(network: Network) -> dict[str, float]:
    """Return the share of the parameters of each shallower relative that is smaller, by REF."""
    whole = count_parameters(network)
    sizes = {
        reference: count_parameters(load(reference, like=network.contract)) / whole
        for reference in shallower_siblings(network.reference)
    }
    return {reference: share for reference, share in sizes.items() if share < 1}


def why_not_pruned(network: Network) -> str:
    """Return why no filter of a network can go, found by trying; empty if some can."""
    try:
        Pruning(importance="l1")(network, None, from_seed(0))
    except ValueError as error:
        return str(error)
    return ""
