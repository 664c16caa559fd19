"""Inheritance: a student begins with its teacher's weights, and least squares repairs the rest.

Of each run of blocks the student keeps the first of every segment (`nets.blocks`), of each layer
the channels that the teacher's answers hang on most (`nets.kept_channels`). What a kept block
answers must then stand for what the whole segment answered, what a narrower layer answers for what
the wide one did. So the student's linear maps are solved one after another, in the order of the
calls (`compress.solving`): each map is changed so that on the student's own inputs u, at places of
the maps of some images,

    sum |z_student(u) - z_teacher|^2 + ridge tr(U'U) / d |change|^2

is least, z the answers before the activation; where that is a ReLU, only what passes it counts
(`compress.least_squares`). Last comes the classifier, on the teacher's logits.

A student of another family has no layer to inherit. The ends of its stages and its classifier are
solved behind what is random before them (`compress.inherit_plan`), as far as the logits gain by it.

Sources: reconstructing a layer's answer by least squares from fewer channels, He, Zhang, Sun
(arXiv:1707.06168); beginning as the teacher with layers left out, Sanh et al. (arXiv:1910.01108).
Differs from the papers: segments are solved before their activation and around the weights that
are there, on images that need not be real.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from doublure.compress.inherit_plan import LOGITS, InheritancePlan
from doublure.compress.pruning import importances
from doublure.compress.solving import EXACT, Repair, Solver
from doublure.core.cards import Card
from doublure.core.checks import positive
from doublure.core.protocols import Batch, image_batch
from doublure.core.seeding import child
from doublure.nets.blocks import Counterparts, find_counterparts
from doublure.nets.channels import Channels, UntraceableError, trace_channels
from doublure.nets.kept_channels import (
    KeptChannels,
    copy_kept_,
    keep_channels,
    squared_weights,
)
from doublure.nets.network import Network, freeze
from doublure.nets.trained import check_trained

CARD = Card(
    paper="He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural Networks, "
    "arXiv:1707.06168",
    needs=("features", "weights"),
)

# Images that go through a network at once.
_SLICE = 128
# Images that the importance of channels is judged on.
_JUDGED = 256


@dataclass(frozen=True, kw_only=True)
class Initialized:
    """What a student began with.

    Args:
        how: in one line.
        errors: squared error of each stage's end and of the logits, as a share of how much the
            teacher's vary; after repair, on the images it was made on. Behind a ReLU, of what
            passes it.
        notes: what could not be inherited, and why.
    """

    how: str
    errors: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inherit:
    """Initialisation: the teacher's weights, repaired by least squares.

    Args:
        num_images: that it is repaired on, of those given.
        ridge: penalty on change, as a share of the mean square of what a layer sees.
        rows: of a layer's inputs for each of its unknowns, at places of the images drawn at random.
        rounds: of solving where a ReLU follows, behind which what is below zero is all one.
        repair: False leaves what was taken over as it is.
    """

    num_images: int = 1024
    ridge: float = 1e-3
    rows: int = 16
    rounds: int = 3
    repair: bool = True

    def __post_init__(self) -> None:
        for name in ("num_images", "ridge", "rows", "rounds"):
            positive(name, getattr(self, name))

    def __call__(
        self, student: nn.Module, teacher: nn.Module, batches: Sequence[Batch], rng: torch.Generator
    ) -> Initialized:
        """Write weights into `student`, in place; the teacher stays as it is.

        Args:
            batches: of images in [0, 1], any; the more like the teacher's own, the better.

        Raises:
            ValueError: the teacher is untrained, or has nothing that the student could take.
        """
        if not (isinstance(student, Network) and isinstance(teacher, Network)):
            kinds = f"{type(student).__name__} and {type(teacher).__name__}"
            raise TypeError(f"inheritance needs two Networks, got {kinds}")
        if not batches:
            raise ValueError("inheritance is repaired on images, got none; use --from-scratch")
        images = torch.cat([batch.images for batch in batches])[: self.num_images]
        slices = torch.split(images, _SLICE)
        mine, taught = _at_rest(student), _at_rest(teacher)
        check_trained(taught, slices[0])
        return _Inheritance(self, mine, taught, slices, rng).run()


def share_in_common(student: nn.Module, teacher: nn.Module) -> float:
    """Return the share of the student's parameters that it could begin with of the teacher's.

    Layers of other widths count as well; kernels of another size do not.
    """
    found = find_counterparts(student, teacher)
    whole = common = 0
    for name, module in student.named_modules():
        held = {}
        if name in found.modules:
            held = _tensors(teacher.get_submodule(found.modules[name]))
        for key, values in module.named_parameters(recurse=False):
            whole += values.numel()
            common += values.numel() if key in held and _akin(values, held[key]) else 0
    return common / max(whole, 1)


def _akin(one: Tensor, other: Tensor) -> bool:
    return one.dim() == other.dim() and one.shape[2:] == other.shape[2:]


@torch.no_grad()
def copy_weights_(
    student: nn.Module, teacher: nn.Module, found: Counterparts, kept: KeptChannels | None = None
) -> set[str]:
    """Give the student what its counterparts hold; return the names of what was written.

    Args:
        kept: which channels, where the student is narrower; without, all or nothing of a tensor.
    """
    copied = set()
    for ours, theirs in found.modules.items():
        one, other = student.get_submodule(ours), teacher.get_submodule(theirs)
        held = {**_tensors(other)}
        alike = {n: v for n, v in _tensors(one).items() if n in held and held[n].shape == v.shape}
        if kept is not None and ours in kept.layers and len(alike) < len(_tensors(one)):
            names = copy_kept_(one, other, *kept.layers[ours])
        else:
            for name, values in alike.items():
                values.copy_(held[name])
            names = tuple(alike)
        copied |= {f"{ours}.{name}" if ours else name for name in names}
    return copied


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return what a module itself holds, by name."""
    held: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    return held | dict(module.named_buffers(recurse=False))


class _Inheritance:
    """A student that is being written; both networks are in eval mode and share their weights."""

    def __init__(
        self,
        settings: Inherit,
        student: Network,
        teacher: Network,
        slices: Sequence[Tensor],
        rng: torch.Generator,
    ) -> None:
        self.settings, self.slices, self.rng = settings, slices, rng
        self.student, self.teacher = student, teacher
        self.notes: list[str] = []

    def run(self) -> Initialized:
        student, teacher = self.student.body, self.teacher.body
        found = find_counterparts(student, teacher)
        plan = InheritancePlan(
            student,
            teacher,
            self.student.shown(self.slices[0]),
            self.teacher.shown(self.slices[0]),
        )
        classifier = self._classifier(plan)
        if plan.last is not None and not classifier:
            # What one class is told by is not what another begins with.
            found.modules.pop(plan.last.layer, None)
        kept = self._keep_channels(found)
        copied = copy_weights_(student, teacher, found, kept)
        missing = [name for name, _ in student.named_parameters() if name not in copied]
        if not missing and kept is None and self._answers_alike():
            return Initialized(how="the teacher's own weights", errors={LOGITS: 0.0})
        inherited = {x.layer for x in plan.maps if f"{x.layer}.weight" in copied}
        if not self.settings.repair:
            how = f"{_taken(found, kept, len(inherited), len(plan.maps))}, not repaired"
            return Initialized(how=how, errors={}, notes=tuple(self.notes))
        estimate_statistics_(self.student, _new_norms(student, copied), self.slices)
        planned = plan.counterparts(found, kept) if inherited else {}
        stages = {layer: x for layer, x in plan.stages().items() if layer not in inherited}
        if not (inherited or stages or classifier):
            raise ValueError(
                f"{type(student).__name__} has nothing in common with its teacher, "
                f"{type(teacher).__name__}; use --from-scratch"
            )
        if not (inherited or stages):
            self.notes.append("no two stages have maps of one size: the classifier alone is solved")
        planned |= classifier
        errors = self._solve(plan, planned, stages)
        images = sum(len(part) for part in self.slices)
        if missing:
            self.notes.append(_listed(f"{len(missing)} parameters begin anew", missing))
        took = _taken(found, kept, len(inherited), len(plan.maps))
        how = f"{took}, repaired by least squares on {images} images"
        return Initialized(how=how, errors=errors, notes=tuple(self.notes))

    def _solve(
        self, plan: InheritancePlan, planned: dict[str, Repair], stages: dict[str, Repair]
    ) -> dict[str, float]:
        """Repair what is planned, and ends of stages as well where the logits gain by it."""
        if not stages:
            return self._solver().solve(plan.in_order(planned))
        start = _snapshot(self.student)
        without = self._solver().solve(plan.in_order(planned))
        ended = _snapshot(self.student)
        _restore_(self.student, start)
        errors = self._solver().solve(plan.in_order(stages | planned))
        if errors.get(LOGITS, 0.0) <= without.get(LOGITS, 0.0):
            count = len(stages)
            self.notes.append(f"{count} ends of stages answer as the teacher's do")
            return errors
        _restore_(self.student, ended)
        self.notes.append("ends of stages stay as they began: the logits lose by their repair")
        return without

    def _solver(self) -> Solver:
        return Solver(
            self.student,
            self.teacher,
            self.slices,
            rows=self.settings.rows,
            ridge=self.settings.ridge,
            rounds=self.settings.rounds,
            rng=self.rng,
        )

    def _classifier(self, plan: InheritancePlan) -> dict[str, Repair]:
        """Return the repair of the classifier, by its layer."""
        one, other = self.student.contract, self.teacher.contract
        if one.classes != other.classes or one.names != other.names:
            self.notes.append("the classifier begins anew: its classes are not the teacher's")
            return {}
        repair = plan.classifier()
        if repair is None:
            self.notes.append("the logits come from no linear layer that could be solved")
            return {}
        return {repair.student.map.layer: repair}

    def _keep_channels(self, found: Counterparts) -> KeptChannels | None:
        """Return which channels the student keeps; None where it has all of its counterparts'."""
        student, teacher = self.student.body, self.teacher.body
        pairs = (
            (_tensors(student.get_submodule(ours)), _tensors(teacher.get_submodule(theirs)))
            for ours, theirs in found.modules.items()
        )
        if all(
            mine[name].shape == taught[name].shape
            for mine, taught in pairs
            for name in mine.keys() & taught.keys()
        ):
            return None
        try:
            mine, taught = trace_channels(self.student), trace_channels(self.teacher)
        except UntraceableError as error:
            self.notes.append(f"layers of other widths begin anew: {error}")
            return None
        return keep_channels(mine, taught, found, self._importance(taught))

    def _importance(self, channels: Channels) -> dict[int, float]:
        """Return how much the teacher's answers depend on each of its channels.

        Of those that no filter writes it is judged by the weights that read them.
        """
        images = torch.cat(list(self.slices))[:_JUDGED]
        batches = [image_batch(part) for part in torch.split(images, _SLICE)]
        rng = child(self.rng, "importance")
        known = squared_weights(self.teacher.body, channels)
        if not channels.prunable:
            return known
        scores = importances(self.teacher, channels, batches, "fisher", rng)
        return known | dict(zip(channels.prunable, scores.tolist(), strict=True))

    @torch.no_grad()
    def _answers_alike(self) -> bool:
        ours, theirs = self.student(self.slices[0]), self.teacher(self.slices[0])
        if ours.shape != theirs.shape:
            return False
        return float((ours - theirs).square().sum()) <= EXACT * float(theirs.square().sum())


@torch.no_grad()
def estimate_statistics_(network: Network, norms: Sequence[str], slices: Sequence[Tensor]) -> None:
    """Give BatchNorms of a network in eval mode the mean statistics of slices of images."""
    chosen = [network.body.get_submodule(name) for name in norms]
    for norm in chosen:
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for images in slices if chosen else ():
        network(images)
    for norm in chosen:
        norm.eval()


def _new_norms(network: nn.Module, copied: set[str]) -> list[str]:
    """Return the BatchNorms whose statistics are not the teacher's."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.running_mean is not None
        and f"{name}.running_mean" not in copied
    ]


def _snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@torch.no_grad()
def _restore_(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, value in network.state_dict().items():
        value.copy_(state[name])


def _at_rest(network: Network) -> Network:
    """Return the network in eval mode, sharing its weights, with no activation in place."""
    frozen = freeze(network)
    assert isinstance(frozen, Network)
    for module in frozen.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return frozen


def _taken(found: Counterparts, kept: KeptChannels | None, some: int, many: int) -> str:
    """Return what of the teacher a student has, in words."""
    if not some:
        return "no layer of the teacher's"
    layers = "" if some == many else f"{some} of {many} layers, "
    return f"{layers}{_depth(found)}, {_width(kept)}"


def _depth(found: Counterparts) -> str:
    """Return how many blocks are kept, in words."""
    runs = list(dict.fromkeys(found.runs.values()))
    if all(few == many for few, many in runs):
        return "blocks all"
    if len(runs) == 1:
        return f"blocks {runs[0][0]} of {runs[0][1]} in each stage"
    return "blocks " + ", ".join(f"{few} of {many}" for few, many in found.runs.values())


def _width(kept: KeptChannels | None) -> str:
    """Return which share of the channels is kept, in words."""
    if kept is None:
        return "channels all"
    of = [places[1] for places in kept.layers.values()]
    theirs = sum(len(kept.teacher[name][1]) for name in kept.layers if name in kept.teacher)
    return f"channels {sum(int((p >= 0).sum()) for p in of) / max(1, theirs):.0%}"


def _listed(what: str, names: Sequence[str], most: int = 3) -> str:
    """Return what is said of some names, with the first of them."""
    more = ", ..." if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}"
