"""Creation of each candidate of `shrink`: pruned, repaired, distilled, by the other verbs.

Training is a run of `distill` with its default recipe. All candidates use the same images, which
are generated once: otherwise the time would be enough for only a few hundred each.
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
# Number of images for filter importance and layer repair.
_JUDGED_BY = 512
# Below this side in pixels the default recipe does not invert the teacher.
_TINY = 16
# A pruned network starts near its teacher, like one that inherits: settings of `auto` for those.
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
    """Shared inputs of all candidates.

    Args:
        teacher: the teacher as an argument of a verb.
        network: the same, loaded.
        root: the folder of `shrink`.
        transfer: transfer set in place of generated images.
        options: options of all verbs: seed, device, allow_code, say, watch.
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
    """Return the network of a candidate, created in about this many seconds, or resumed.

    Args:
        images: its transfer set; None uses that of the default recipe.
    """
    if candidate.kind == "int8":
        return bench.network
    begins: str | NetworkRef | Network | None = candidate.student
    if candidate.share is not None:
        begins = _prune(candidate, candidate.share, images or SHADERS, bench)
    folder, pruned = bench.folder(candidate.name), candidate.share is not None
    distill(
        bench.teacher,
        begins,
        out=folder,
        transfer=images,
        from_scratch=pruned,  # which keeps its weights
        budget=seconds,
        batch_size=bench.batch_size,
        audit=False,
        resume=True,
        **dict(bench.options) | ({"set": NEAR} if pruned else {}),
    )
    if isinstance(begins, Network):  # its architecture has no name that rebuilds it
        descriptions = {task.name: task.description for task in tasks.TASKS}
        begins.body.load_state_dict(read_student(folder, descriptions)[0])
        return begins
    return open_network(str(folder), verb="shrink", allow_code=bench.options["allow_code"])


def _prune(
    candidate: Candidate, share: float, images: Source, bench: Bench
) -> NetworkRef | Network:
    """Return a pruned and repaired network; it is saved if a name rebuilds it."""
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
        save(made, folder)
    return NetworkRef(ref=str(folder))


def images_of(plan: Plan, bench: Bench) -> Source | None:
    """Return the common images of all candidates, generated once; None if there are none."""
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
    """Return whether it is useful to invert a network."""
    return bool(batchnorm_layers(network)) and min(network.contract.size) >= _TINY


def smaller_siblings(network: Network) -> dict[str, float]:
    """Return the relative number of parameters of each smaller, shallower relative, by REF."""
    whole = count_parameters(network)
    sizes = {
        reference: count_parameters(load(reference, like=network.contract)) / whole
        for reference in shallower_siblings(network.reference)
    }
    return {reference: share for reference, share in sizes.items() if share < 1}


def why_not_pruned(network: Network) -> str:
    """Return why no filter of a network can be removed, by a trial; "" if some can."""
    try:
        Pruning(importance="l1")(network, None, from_seed(0))
    except ValueError as error:
        return str(error)
    return ""
