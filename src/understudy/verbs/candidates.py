"""How each candidate of `shrink` is made: by the verbs that are there, each as a run of its own."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from understudy.checks import positive
from understudy.compress.pruning import Pruning
from understudy.compress.shrinking_plan import Candidate, Plan, shallower_siblings
from understudy.data.student_file import StudentDescription, read_student
from understudy.loading import load
from understudy.nets.batchnorm_statistics import batchnorm_layers
from understudy.nets.network import Network, count_parameters
from understudy.nets.plans import rebuild
from understudy.nets.references import NetworkRef
from understudy.protocols import Source
from understudy.seeding import from_seed
from understudy.sources.surrogate import Surrogate
from understudy.verbs.comparing import SHADERS
from understudy.verbs.distill import distill
from understudy.verbs.naming import open_network
from understudy.verbs.prune import prune
from understudy.verbs.synthesize import synthesize

CANDIDATES = "candidates"
_IMAGES = "images"
# A run of minutes shows few images often; filling the recipe's own pool would take all of them.
_POOL = "4096"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where candidates are made, and what from.

    Args:
        teacher: as a verb takes it.
        network: the same, opened.
        root: the folder of the whole.
        transfer: what is shown, in place of what the verbs would draw.
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


def make(candidate: Candidate, seconds: float, images: Source, bench: Bench) -> Network:
    """Return the network of a candidate, made within about that many seconds, or gone on with.

    Args:
        images: by which filters are judged, and layers repaired.
    """
    folder = bench.folder(candidate.name)
    taught: dict[str, Any] = {
        "transfer": bench.transfer,
        "budget": seconds,
        "batch_size": bench.batch_size,
        "audit": False,
        "set": {"pool_size": _POOL},
        "resume": True,
        **bench.options,
    }
    if candidate.kind == "int8":
        return bench.network
    if candidate.share is not None:
        begins = bench.teacher
        if candidate.begins is not None:
            begins = NetworkRef(ref=str(bench.folder(candidate.begins)))
        prune(begins, candidate.share, out=folder, images=images, **taught)
    else:
        distill(bench.teacher, candidate.student, out=folder, **taught)
    return _opened(folder, bench)


def _opened(folder: Path, bench: Bench) -> Network:
    """Return the network of a run; one made in Python is put in shape from its teacher again."""
    state, description = read_student(folder)
    if description.architecture:
        return open_network(str(folder), allow_code=bench.options["allow_code"])
    assert isinstance(description, StudentDescription)  # as its teacher's
    body = copy.deepcopy(bench.network.body)
    before = len(bench.network.plan)
    rebuild(body, description.plan[before:])
    body.load_state_dict(state)
    return Network(body, bench.network.contract, bench.network.reference, description.plan)


def images_of(plan: Plan, bench: Bench) -> Source:
    """Return images that the teacher's own statistics were used for, made once; or shaders."""
    if bench.transfer is not None:
        return bench.transfer
    if not plan.images:
        return SHADERS
    folder = bench.root / "checkpoint" / _IMAGES
    synthesize(
        "short-inversion",
        count=plan.images,
        out=folder,
        teacher=bench.teacher,
        resume=True,
        **bench.options,
    )
    return Surrogate(data=str(folder), held_out=0.0)


def inverts(network: Network) -> bool:
    """Return whether images can be made of a network's own statistics."""
    return bool(batchnorm_layers(network))


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
