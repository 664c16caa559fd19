"""Inheritance: initialise a student with its teacher's weights, repaired by least squares.

Depth: a sequence of equal blocks is split into segments, and the student has the first block of
each (`nets.blocks`). Width: each layer keeps the channels on which the teacher's outputs depend
most (`nets.kept_channels`). A kept block must then replace its whole segment, and a narrow layer
the wide one. Therefore the student's linear maps are solved one after another, in the order of the
forward pass (`compress.solving`). Each map is changed to minimise, over the student's own inputs u
at random positions of some images,

    sum |z_student(u) - z_teacher|^2 + ridge tr(U'U) / d |change|^2

where z are the outputs before the activation; if that is a ReLU, only the positive part of z counts
(`compress.least_squares`). The classifier is solved last, on the teacher's logits.

A student of another family inherits no layers. The last layers of its stages and its classifier are
solved on top of randomly initialised layers (`compress.inherit_plan`); the stages are kept only if
the error of the logits does not increase.

Sources: reconstructing a layer's output by least squares from fewer channels, He, Zhang, Sun
(arXiv:1707.06168); initialising with a subset of the teacher's layers, Sanh et al.
(arXiv:1910.01108). Differs from the papers: segments are solved before their activation, with a
penalty on the change of the inherited weights, on images that can be synthetic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from doublure.compress.inherit_plan import LOGITS, InheritancePlan
from doublure.compress.inherit_report import Initialized, describe_inheritance, name_some
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

# Images per forward pass.
_SLICE = 128
# Images that measure the importance of channels.
_NUM_IMPORTANCE_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Inherit:
    """Initialisation: the teacher's weights, repaired by least squares.

    Args:
        num_images: maximum number of images for the repair.
        ridge: penalty on the change of weights, relative to the mean square of a layer's inputs.
        rows: number of equations per unknown of a layer; each is a random position of an image.
        rounds: number of solves for a layer followed by a ReLU, whose negative inputs are all
            equivalent.
        repair: False keeps the inherited weights without repair.
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
        """Write weights into `student`, in place; the teacher does not change.

        Args:
            batches: images in [0, 1]; the more similar to the teacher's training data, the better.

        Raises:
            ValueError: the teacher is untrained, or the student can inherit nothing from it.
        """
        if not (isinstance(student, Network) and isinstance(teacher, Network)):
            kinds = f"{type(student).__name__} and {type(teacher).__name__}"
            raise TypeError(f"inheritance needs two Networks, got {kinds}")
        if not batches:
            raise ValueError(
                "inheritance needs images for its repair, got none; use --from-scratch"
            )
        images = torch.cat([batch.images for batch in batches])[: self.num_images]
        slices = torch.split(images, _SLICE)
        frozen_student, frozen_teacher = _frozen_view(student), _frozen_view(teacher)
        check_trained(frozen_teacher, slices[0])
        return _Inheritance(self, frozen_student, frozen_teacher, slices, rng).run()


def share_in_common(student: nn.Module, teacher: nn.Module) -> float:
    """Return the share of the student's parameters that have a counterpart in the teacher.

    Layers of different width count; kernels of different size do not.
    """
    counterparts = find_counterparts(student, teacher)
    total = common = 0
    for name, module in student.named_modules():
        held = {}
        if name in counterparts.modules:
            held = _tensors(teacher.get_submodule(counterparts.modules[name]))
        for key, values in module.named_parameters(recurse=False):
            total += values.numel()
            common += values.numel() if key in held and _same_kernel(values, held[key]) else 0
    return common / max(total, 1)


def _same_kernel(one: Tensor, other: Tensor) -> bool:
    return one.dim() == other.dim() and one.shape[2:] == other.shape[2:]


@torch.no_grad()
def copy_weights_(
    student: nn.Module, teacher: nn.Module, found: Counterparts, kept: KeptChannels | None = None
) -> set[str]:
    """Copy the teacher's tensors to their counterparts; return the names that were written.

    Args:
        kept: channels that a narrower student keeps; None copies only tensors of equal shape.
    """
    copied = set()
    for student_name, teacher_name in found.modules.items():
        student_module, teacher_module = (
            student.get_submodule(student_name),
            teacher.get_submodule(teacher_name),
        )
        held = {**_tensors(teacher_module)}
        same_shape = {
            n: v
            for n, v in _tensors(student_module).items()
            if n in held and held[n].shape == v.shape
        }
        if (
            kept is not None
            and student_name in kept.layers
            and len(same_shape) < len(_tensors(student_module))
        ):
            names = copy_kept_(student_module, teacher_module, *kept.layers[student_name])
        else:
            for name, values in same_shape.items():
                values.copy_(held[name])
            names = tuple(same_shape)
        copied |= {f"{student_name}.{name}" if student_name else name for name in names}
    return copied


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's own parameters and buffers, by name, without those of submodules."""
    held: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    return held | dict(module.named_buffers(recurse=False))


class _Inheritance:
    """One initialisation of a student; both networks are views in eval mode that share weights."""

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
        counterparts = find_counterparts(student, teacher)
        plan = InheritancePlan(
            student,
            teacher,
            self.student.to_input(self.slices[0]),
            self.teacher.to_input(self.slices[0]),
        )
        classifier = self._classifier(plan)
        if plan.last is not None and not classifier:
            # The classes differ: the weights of a class are no initialisation for another class.
            counterparts.modules.pop(plan.last.layer, None)
        kept = self._keep_channels(counterparts)
        copied = copy_weights_(student, teacher, counterparts, kept)
        missing = [name for name, _ in student.named_parameters() if name not in copied]
        # The same network with the same outputs: there is nothing to repair.
        if not missing and kept is None and self._has_equal_outputs():
            return Initialized(how="the teacher's own weights", errors={LOGITS: 0.0})
        inherited = {x.layer for x in plan.maps if f"{x.layer}.weight" in copied}
        parts = describe_inheritance(counterparts, kept, len(inherited), len(plan.maps))
        if not self.settings.repair:
            how = f"{parts}, not repaired"
            return Initialized(how=how, errors={}, notes=tuple(self.notes))
        # BatchNorms without inherited statistics get those of the images, before anything is
        # solved on their outputs.
        estimate_statistics_(self.student, _new_norms(student, copied), self.slices)
        planned = plan.counterparts(counterparts, kept) if inherited else {}
        stages = {layer: x for layer, x in plan.stages().items() if layer not in inherited}
        if not (inherited or stages or classifier):
            raise ValueError(
                f"{type(student).__name__} has nothing in common with its teacher, "
                f"{type(teacher).__name__}; use --from-scratch"
            )
        if not (inherited or stages):
            self.notes.append(
                "no two stages have maps of equal size: only the classifier is solved"
            )
        planned |= classifier
        errors = self._solve(plan, planned, stages)
        images = sum(len(part) for part in self.slices)
        if missing:
            text = f"{len(missing)} parameters are initialised randomly"
            self.notes.append(name_some(text, missing))
        how = f"{parts}, repaired by least squares on {images} images"
        return Initialized(how=how, errors=errors, notes=tuple(self.notes))

    def _solve(
        self, plan: InheritancePlan, planned: dict[str, Repair], stages: dict[str, Repair]
    ) -> dict[str, float]:
        """Solve the planned maps, and the ends of stages too if that does not worsen the logits."""
        if not stages:
            return self._solver().solve(plan.in_order(planned))
        # Try both, from the same weights, and keep the one with the smaller error of the logits.
        start = _snapshot(self.student)
        errors_without = self._solver().solve(plan.in_order(planned))
        solved_without = _snapshot(self.student)
        _restore_(self.student, start)
        errors = self._solver().solve(plan.in_order(stages | planned))
        if errors.get(LOGITS, 0.0) <= errors_without.get(LOGITS, 0.0):
            self.notes.append(f"the ends of {len(stages)} stages are solved to match the teacher's")
            return errors
        _restore_(self.student, solved_without)
        self.notes.append(
            "the ends of stages are not solved: that increases the error of the logits"
        )
        return errors_without

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
        student_contract, teacher_contract = self.student.contract, self.teacher.contract
        if (
            student_contract.classes != teacher_contract.classes
            or student_contract.names != teacher_contract.names
        ):
            self.notes.append(
                "the classifier is initialised randomly: its classes are not the teacher's"
            )
            return {}
        repair = plan.classifier()
        if repair is None:
            self.notes.append("the last layer is not linear: the classifier cannot be solved")
            return {}
        return {repair.student.map.layer: repair}

    def _keep_channels(self, counterparts: Counterparts) -> KeptChannels | None:
        """Return the channels that the student keeps; None if it is as wide as its counterparts."""
        student, teacher = self.student.body, self.teacher.body
        pairs = (
            (_tensors(student.get_submodule(name)), _tensors(teacher.get_submodule(partner)))
            for name, partner in counterparts.modules.items()
        )
        if all(
            own[name].shape == partners[name].shape
            for own, partners in pairs
            for name in own.keys() & partners.keys()
        ):
            return None
        try:
            channels = trace_channels(self.student)
            teacher_channels = trace_channels(self.teacher)
        except UntraceableError as error:
            self.notes.append(f"layers of different width are initialised randomly: {error}")
            return None
        importance = self._importance(teacher_channels)
        return keep_channels(channels, teacher_channels, counterparts, importance)

    def _importance(self, channels: Channels) -> dict[int, float]:
        """Return how much the teacher's outputs depend on each of its channels.

        The importance of a channel that no filter writes is the size of the weights that read it.
        """
        images = torch.cat(list(self.slices))[:_NUM_IMPORTANCE_IMAGES]
        batches = [image_batch(part) for part in torch.split(images, _SLICE)]
        rng = child(self.rng, "importance")
        by_weights = squared_weights(self.teacher.body, channels)
        if not channels.prunable:
            return by_weights
        scores = importances(self.teacher, channels, batches, "fisher", rng)
        return by_weights | dict(zip(channels.prunable, scores.tolist(), strict=True))

    @torch.no_grad()
    def _has_equal_outputs(self) -> bool:
        logits, teacher_logits = self.student(self.slices[0]), self.teacher(self.slices[0])
        if logits.shape != teacher_logits.shape:
            return False
        return float((logits - teacher_logits).square().sum()) <= EXACT * float(
            teacher_logits.square().sum()
        )


@torch.no_grad()
def estimate_statistics_(network: Network, norms: Sequence[str], slices: Sequence[Tensor]) -> None:
    """Set the statistics of these BatchNorms to the mean over slices of images."""
    layers = [network.body.get_submodule(name) for name in norms]
    for norm in layers:
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    for images in slices if layers else ():
        network(images)
    for norm in layers:
        norm.eval()


def _new_norms(network: nn.Module, copied: set[str]) -> list[str]:
    """Return the BatchNorms whose statistics were not copied from the teacher."""
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


def _frozen_view(network: Network) -> Network:
    """Return the network in eval mode, with shared weights and without in-place activations."""
    frozen = freeze(network)
    assert isinstance(frozen, Network)
    for module in frozen.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return frozen
