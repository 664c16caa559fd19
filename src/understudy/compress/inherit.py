"""Inheritance: a student begins with its teacher's weights, and least squares repairs the rest.

Of each run of blocks the student keeps the first of every segment (`nets.blocks`). What a kept
block answers must then stand for what the whole segment answered: its last linear map is changed
so that on the student's own inputs u, over places of the maps of some images,

    sum |z_student(u) - z_teacher|^2 + ridge tr(U'U) / d |change|^2

is least, z the answers before the activation. Blocks are repaired in the order of the calls, each
on what the repaired ones before it answer; then the classifier, on the teacher's logits.

Sources: reconstructing a layer's answer by least squares from fewer channels, He, Zhang, Sun
(arXiv:1707.06168); beginning as the teacher with layers left out, Sanh et al. (arXiv:1910.01108).
Differs from the papers: segments are solved before their activation and around the weights that
are there, on images that need not be real.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from understudy.cards import Card
from understudy.checks import positive
from understudy.compress.least_squares import (
    NormalEquations,
    change_map_,
    draw_places,
    has_constant,
    input_rows,
)
from understudy.nets.blocks import Counterparts, find_counterparts
from understudy.nets.network import Network, freeze
from understudy.nets.readouts import (
    LinearMap,
    Places,
    Readout,
    block_readout,
    linear_maps,
    own_readout,
    read_map,
    read_rows,
)
from understudy.nets.stages import find_stages
from understudy.protocols import Batch
from understudy.seeding import child

CARD = Card(
    paper="He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural Networks, "
    "arXiv:1707.06168",
    needs=("features", "weights"),
)

# Images that go through a network at once.
_SLICE = 128
# Squared errors below this share of what varies are float32's.
_EXACT = 1e-9
# What the teacher answers is kept up to here; beyond, it is asked again.
_KEPT_BYTES = 2**29
_LOGITS = "logits"


@dataclass(frozen=True, kw_only=True)
class Initialized:
    """What a student began with.

    Args:
        how: in one line.
        errors: squared error of each stage's end before its activation, and of the logits, as a
            share of how much the teacher's vary; after repair, on the images it was made on.
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
        places: of a map that an image gives at most.
        repair: False leaves what was taken over as it is.
    """

    num_images: int = 1024
    ridge: float = 1e-3
    places: int = 64
    repair: bool = True

    def __post_init__(self) -> None:
        positive("num_images", self.num_images)
        positive("ridge", self.ridge)
        positive("places", self.places)

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


def check_trained(teacher: nn.Module, images: Tensor) -> None:
    """Raise unless a network looks as if it had learned something."""
    norms = [m for m in teacher.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms and all(map(_is_initial, norms)):
        raise ValueError(
            "the teacher is untrained: its BatchNorm statistics are those of a new network; give "
            "its weights, or use --from-scratch"
        )
    with torch.no_grad():
        answers = teacher(images).float()
    if len(images) > 1 and not float(answers.std(0).max()) > 0:
        raise ValueError(
            "the teacher answers every image alike, so that there is nothing to inherit; give its "
            "weights, or use --from-scratch"
        )


def _is_initial(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    mean, variance, seen = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or variance is None:
        return True
    return not (mean.any() or (variance != 1).any() or (seen is not None and bool(seen)))


def share_in_common(student: nn.Module, teacher: nn.Module) -> float:
    """Return the share of the student's parameters that could be copied from the teacher."""
    found = find_counterparts(student, teacher)
    whole = common = 0
    for name, module in student.named_modules():
        held = {}
        if name in found.modules:
            held = dict(teacher.get_submodule(found.modules[name]).named_parameters(recurse=False))
        for key, values in module.named_parameters(recurse=False):
            whole += values.numel()
            common += values.numel() if key in held and held[key].shape == values.shape else 0
    return common / max(whole, 1)


@torch.no_grad()
def copy_weights_(student: nn.Module, teacher: nn.Module, found: Counterparts) -> set[str]:
    """Give the student what its counterparts hold in its shapes; return the names of that."""
    copied = set()
    for ours, theirs in found.modules.items():
        held = dict(_tensors(teacher.get_submodule(theirs)))
        for name, values in _tensors(student.get_submodule(ours)):
            if name in held and held[name].shape == values.shape:
                values.copy_(held[name])
                copied.add(f"{ours}.{name}" if ours else name)
    return copied


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what a module itself holds."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Repair:
    """A linear map of the student, and what it must answer.

    Args:
        ends: name of the stage that it ends; empty for none.
    """

    student: Readout
    teacher: Readout
    ends: str = ""


# What the teacher answers at one place of the network, slice by slice, and from where.
_Wanted = list[tuple[Tensor, Places]]


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
        copied = copy_weights_(student, teacher, found)
        parameters = dict(student.named_parameters())
        if not copied & parameters.keys():
            raise ValueError(
                f"{type(student).__name__} has no layer in common with its teacher, "
                f"{type(teacher).__name__}; use --from-scratch"
            )
        missing = [name for name in parameters if name not in copied]
        if missing:
            self.notes.append(_listed(f"{len(missing)} parameters begin anew", missing))
        images = sum(len(part) for part in self.slices)
        if not missing and self._answers_alike():
            return Initialized(how="the teacher's own weights", errors={_LOGITS: 0.0})
        if not self.settings.repair:
            return Initialized(
                how=f"{_depth(found)}, not repaired", errors={}, notes=tuple(self.notes)
            )
        errors = self._solve(self._repairs(found))
        how = f"{_depth(found)}, repaired by least squares on {images} images"
        return Initialized(how=how, errors=errors, notes=tuple(self.notes))

    @torch.no_grad()
    def _answers_alike(self) -> bool:
        ours, theirs = self.student(self.slices[0]), self.teacher(self.slices[0])
        if ours.shape != theirs.shape:
            return False
        return float((ours - theirs).square().sum()) <= _EXACT * float(theirs.square().sum())

    def _repairs(self, found: Counterparts) -> list[_Repair]:
        """Return what to solve, in the order of the student's calls."""
        example = self.slices[0][:2]
        ours, theirs = _shown(self.student, example), _shown(self.teacher, example)
        student, teacher = self.student.body, self.teacher.body
        mine, taught = linear_maps(student, ours), linear_maps(teacher, theirs)
        at_ends = {}
        for block, end in found.ends.items():
            one = block_readout(student, ours, block, mine)
            other = block_readout(teacher, theirs, end, taught)
            if one is not None and other is not None and len(one.scale) == len(other.scale):
                at_ends[one.map.layer] = _Repair(
                    student=one, teacher=other, ends=_stage_ended(found, block)
                )
        by_layer = {linear.layer: linear for linear in taught}
        classifier = self._classifier(found, ours, theirs)
        repairs = []
        for linear in mine:
            partner = by_layer.get(found.modules.get(linear.layer, ""))
            if linear.layer in at_ends:
                repairs.append(at_ends[linear.layer])
            elif partner is not None and (linear.layer == classifier or not _is_last(linear, mine)):
                one, other = own_readout(student, linear), own_readout(teacher, partner)
                if len(one.scale) == len(other.scale):
                    ends = _LOGITS if linear.layer == classifier else ""
                    repairs.append(_Repair(student=one, teacher=other, ends=ends))
        return repairs

    def _classifier(self, found: Counterparts, ours: Tensor, theirs: Tensor) -> str | None:
        mine = find_stages(self.student.body, ours).classifier
        taught = find_stages(self.teacher.body, theirs).classifier
        one, other = self.student.contract, self.teacher.contract
        if one.classes != other.classes or one.names != other.names:
            self.notes.append("the classifier begins anew: its classes are not the teacher's")
            return None
        return mine if mine is not None and found.modules.get(mine) == taught else None

    def _solve(self, repairs: Sequence[_Repair]) -> dict[str, float]:
        errors = {}
        for group in self._groups(repairs):
            wanted = self._ask_teacher(repairs, group)
            for i in group:
                error = self._repair(repairs[i], wanted.pop(i))
                if repairs[i].ends:
                    errors[repairs[i].ends] = error
        return errors

    def _groups(self, repairs: Sequence[_Repair]) -> Iterator[list[int]]:
        """Yield numbers of repairs whose wanted answers fit in memory together."""
        rows = self.settings.places * sum(len(part) for part in self.slices)
        group: list[int] = []
        size = 0
        for i, repair in enumerate(repairs):
            needs = 4 * rows * len(repair.teacher.scale)
            if group and size + needs > _KEPT_BYTES:
                yield group
                group, size = [], 0
            group.append(i)
            size += needs
        if group:
            yield group

    def _ask_teacher(self, repairs: Sequence[_Repair], group: Sequence[int]) -> dict[int, _Wanted]:
        wanted: dict[int, _Wanted] = {i: [] for i in group}
        for number, images in enumerate(self.slices):

            def choose(place: int, shape: tuple[int, ...], number: int = number) -> Places:
                rng = child(self.rng, "places", group[place], number)
                return draw_places(shape, self.settings.places * shape[0], rng)

            readouts = [repairs[i].teacher for i in group]
            read = read_rows(self.teacher.body, _shown(self.teacher, images), readouts, choose)
            for i, rows in zip(group, read, strict=True):
                wanted[i].append(rows)
        return wanted

    def _repair(self, repair: _Repair, wanted: _Wanted) -> float:
        """Solve one linear map; return the squared error that remains, as a share of variance."""
        body, linear = self.student.body, repair.student.map
        layer = body.get_submodule(linear.layer)
        sums: NormalEquations | None = None
        for images, (rows, places) in zip(self.slices, wanted, strict=True):
            given, answer = read_map(body, _shown(self.student, images), repair.student)
            seen = input_rows(layer, given, places)
            if sums is None:
                sums = NormalEquations.empty(len(seen), seen.shape[2], rows.shape[1] // len(seen))
            sums.add(seen, rows - repair.student.rows(answer, places))
        assert sums is not None
        varies = _variation(torch.cat([rows for rows, _ in wanted]))
        before = float(sums.squares.sum())
        if before <= _EXACT * varies:
            return before / varies
        change = sums.solve(self.settings.ridge, constant=has_constant(body, linear))
        change_map_(body, linear, change, sums)
        return float(sums.squares_after(change).sum()) / varies


def _shown(network: Network, images: Tensor) -> Tensor:
    """Return what a network shows its architecture."""
    return network._in_order((images - network.mean) / network.std)


def _at_rest(network: Network) -> Network:
    """Return the network in eval mode, sharing its weights, with no activation in place."""
    frozen = freeze(network)
    assert isinstance(frozen, Network)
    for module in frozen.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return frozen


def _variation(rows: Tensor) -> float:
    """Return the sum of squared distances of rows from their mean."""
    wide = rows.double()
    return max(float((wide - wide.mean(0)).square().sum()), torch.finfo(torch.float64).tiny)


def _is_last(linear: LinearMap, maps: Sequence[LinearMap]) -> bool:
    return linear.layer == maps[-1].layer


def _stage_ended(found: Counterparts, block: str) -> str:
    """Return the run that a block is the last of; empty for none."""
    container = block.rpartition(".")[0]
    last = [other for other in found.ends if other.rpartition(".")[0] == container][-1]
    return container if block == last else ""


def _depth(found: Counterparts) -> str:
    """Return how many blocks are kept, in words."""
    runs = list(dict.fromkeys(found.runs.values()))
    if not runs or all(few == many for few, many in runs):
        return "blocks all"
    if len(runs) == 1:
        return f"blocks {runs[0][0]} of {runs[0][1]} in each stage"
    return "blocks " + ", ".join(f"{few} of {many}" for few, many in found.runs.values())


def _listed(what: str, names: Sequence[str], most: int = 3) -> str:
    """Return what is said of some names, with the first of them."""
    more = ", ..." if len(names) > most else ""
    return f"{what}: {', '.join(names[:most])}{more}"
