"""Boundary images: pairs on either side of a teacher's decision boundary, by a targeted attack.

From an image x that the teacher F does not assign to class t, in steps of L2 length a,
    y = clip(x - a g / ||g||_2, 0, 1)    with g the gradient of L(x) = cross-entropy(F(x), t),
until F assigns y to t: `pre` = x, the last iterate before, and `post` = y, the first after.
The step size is that of the bold driver: a step that lowers L is kept and a grows; any other is
undone and a shrinks. One more step of the first length from each, deeper into its own class, gives
`deep_pre` and `deep_post`. An optional bisection first halves the gap between pre and post. Paths
may cross third classes, so pre is "not t" and need not have the class of the start.

Frank, Davis: arXiv:2310.13782 and arXiv:2411.12817. Differs from the papers: step lengths, the
number of steps, the bold driver's factors and the bisection are ours; theirs were not available.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from doublure.core.checks import positive

# The number of values of a 3 x 32 x 32 image, for which the default step was chosen.
_VALUES_OF_REFERENCE = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class BoundaryImages:
    """Result of an attack; where it failed, all four images are the start.

    Args:
        pre: the last iterate before the target class.
        post: the first iterate in the target class.
        deep_pre: one step from `pre`, deeper into its own class.
        deep_post: one step from `post`, deeper into the target class.
        success: whether the target class was reached.
        last_step: L2 length of the last step tried; `post` is at most this far from `pre`.
        num_passes: number of images through the teacher; forward and backward passes count
            separately.
    """

    pre: Float[Tensor, "batch channels height width"]
    post: Float[Tensor, "batch channels height width"]
    deep_pre: Float[Tensor, "batch channels height width"]
    deep_post: Float[Tensor, "batch channels height width"]
    success: Bool[Tensor, " batch"]
    last_step: Float[Tensor, " batch"]
    num_passes: int


def bold_driver(
    loss: Float[Tensor, " batch"],
    trial_loss: Float[Tensor, " batch"],
    step: Float[Tensor, " batch"],
    grow: float,
    shrink: float,
) -> tuple[Bool[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return whether to keep each sample's step, and its next step length."""
    accepted = trial_loss < loss
    return accepted, torch.where(accepted, grow * step, shrink * step)


def predicted_classes(
    teacher: nn.Module, images: Float[Tensor, "batch channels height width"]
) -> Int[Tensor, " batch"]:
    """Return the teacher's classes in float32, independent of autocast, as the attack does."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return _logits(teacher, images).argmax(-1)


def boundary_attack(
    teacher: nn.Module,
    images: Float[Tensor, "batch channels height width"],
    targets: Int[Tensor, " batch"],
    *,
    step_size: float,
    num_steps: int,
    grow: float,
    shrink: float,
    bisections: int,
) -> BoundaryImages:
    """Return images on both sides of the boundary to each target class.

    Images already in their target class count as failures.

    Args:
        teacher: a frozen classifier in eval mode, whose output for an image does not depend on the
            batch.
        step_size: L2 length of the first step and of the deep ones.
        bisections: halvings of the segment between pre and post.
    """
    if teacher.training:
        raise ValueError("the attack needs a teacher in evaluation mode; use nets.network.freeze")
    # Half precision rounds the gradient of a saturated teacher to zero.
    images = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    oracle = _Oracle(teacher)
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        pre, post, success, last_step = _cross(
            oracle, images, targets, step_size, num_steps, grow, shrink
        )
        deep_pre, deep_post = images.clone(), images.clone()
        found = success.nonzero().squeeze(1)
        if found.numel():
            ends = pre[found], post[found]
            for _ in range(bisections):
                ends = _bisect(oracle, *ends, targets[found])
            pre[found], post[found] = ends
            deep_pre[found], deep_post[found] = _deepen(oracle, torch.cat(ends), step_size).chunk(2)
    return BoundaryImages(
        pre=pre,
        post=post,
        deep_pre=deep_pre,
        deep_post=deep_post,
        success=success,
        last_step=last_step,
        num_passes=oracle.num_passes,
    )


@dataclass(frozen=True, kw_only=True)
class BoundaryAttack:
    """The settings of `boundary_attack`; a call runs the attack.

    Args:
        step_size: L2 length of the first step for a 3 x 32 x 32 image; for others it is scaled by
            the square root of the number of values, so that the change per value is the same.
        num_steps: maximum number of steps; an image that has not arrived by then has failed.
        grow: factor of the step length after a step that was kept.
        shrink: factor of the step length after a step that was undone.
        bisections: halvings of the gap between pre and post.
    """

    step_size: float = 0.5
    num_steps: int = 20
    grow: float = 1.1
    shrink: float = 0.5
    bisections: int = 0

    def __post_init__(self) -> None:
        positive("step_size", self.step_size)
        positive("num_steps", self.num_steps)
        if not self.grow >= 1:
            raise ValueError(f"grow must be at least 1, got {self.grow}")
        if not 0 < self.shrink < 1:
            raise ValueError(f"shrink must be between 0 and 1, got {self.shrink}")
        if self.bisections < 0:
            raise ValueError(f"bisections must not be negative, got {self.bisections}")

    def step_for(self, images: Float[Tensor, "batch channels height width"]) -> float:
        """Return the L2 length of the first step for images of this size."""
        return self.step_size * math.sqrt(images[0].numel() / _VALUES_OF_REFERENCE)

    def __call__(
        self,
        teacher: nn.Module,
        images: Float[Tensor, "batch channels height width"],
        targets: Int[Tensor, " batch"],
    ) -> BoundaryImages:
        return boundary_attack(
            teacher,
            images,
            targets,
            step_size=self.step_for(images),
            num_steps=self.num_steps,
            grow=self.grow,
            shrink=self.shrink,
            bisections=self.bisections,
        )


@dataclass(frozen=True, kw_only=True)
class BoundaryDistance:
    """Distances of images to the boundary with the teacher's runner-up class, by attack.

    Args:
        distances: L2 in the space of images in [0, 1]; infinite where the attack failed. An upper
            bound, to within the last step halved as often as the attack bisects.
        num_passes: number of images through the teacher; forward and backward passes count
            separately.
    """

    distances: Float[Tensor, " batch"]
    num_passes: int

    @property
    def success(self) -> float:
        """The share of images whose boundary was reached."""
        return self.distances.isfinite().double().mean().item()

    @property
    def median(self) -> float:
        """The median distance over the reached boundaries; NaN if there is none."""
        return self.distances[self.distances.isfinite()].median().item()


def boundary_distance(
    teacher: nn.Module,
    images: Float[Tensor, "batch channels height width"],
    attack: BoundaryAttack,
) -> BoundaryDistance:
    """Return the distance of each image to the boundary to its runner-up class."""
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        logits = _logits(teacher, images)
    if logits.shape[-1] < 2:
        raise ValueError(f"a boundary needs two classes, but the teacher has {logits.shape[-1]}")
    found = attack(teacher, images, logits.topk(2, dim=-1).indices[:, 1])
    moved = (found.post - images).flatten(1).norm(dim=1)
    return BoundaryDistance(
        distances=torch.where(found.success, moved, torch.inf),
        num_passes=found.num_passes + len(images),
    )


def _logits(teacher: nn.Module, images: Tensor) -> Tensor:
    logits = teacher(images)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"a boundary needs a teacher with logits [batch, classes], got {shape}; use a source "
            f"that does not attack"
        )
    return logits


class _Oracle:
    """The teacher's classes and gradients; counts the images."""

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = teacher
        self.num_passes = 0

    def classes(self, images: Tensor) -> Tensor:
        self.num_passes += len(images)
        return predicted_classes(self.teacher, images)

    def slope(self, images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return classes, losses and unit gradients; without targets, of the predicted class."""
        self.num_passes += 2 * len(images)
        images = images.detach().requires_grad_()
        logits = _logits(self.teacher, images)
        classes = logits.detach().argmax(-1)
        aims = classes if targets is None else targets
        loss = F.cross_entropy(logits, aims, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        # cross_entropy's gradient may underflow to zero: then there is no direction, and no move.
        norms = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return classes, loss.detach(), gradient / (norms + 1e-12)


def _cross(
    oracle: _Oracle,
    images: Tensor,
    targets: Tensor,
    step_size: float,
    num_steps: int,
    grow: float,
    shrink: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Walk each image to its target; return pre, post, success and the last step tried."""
    pre, post = images.clone(), images.clone()
    success = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    last_step = images.new_full((len(images),), step_size)
    classes, loss, direction = oracle.slope(images, targets)
    # Only unfinished images stay in the batch; `active` holds their rows.
    active = (classes != targets).nonzero().squeeze(1)
    x, loss, direction, step = images[active], loss[active], direction[active], last_step[active]
    for _ in range(num_steps):
        if not active.numel():
            break
        trial = (x - step.view(-1, 1, 1, 1) * direction).clamp(0, 1)
        classes, trial_loss, trial_direction = oracle.slope(trial, targets[active])
        last_step[active] = step
        hit = classes == targets[active]
        done = active[hit]
        pre[done], post[done], success[done] = x[hit], trial[hit], True
        accepted, step = bold_driver(loss, trial_loss, step, grow, shrink)
        moved = accepted.view(-1, 1, 1, 1)
        x, direction = torch.where(moved, trial, x), torch.where(moved, trial_direction, direction)
        loss = torch.where(accepted, trial_loss, loss)
        active, x, loss, direction, step = (v[~hit] for v in (active, x, loss, direction, step))
    return pre, post, success, last_step


def _bisect(oracle: _Oracle, pre: Tensor, post: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Halve the segment from pre (not the target class) to post (the target class)."""
    middle = (pre + post) / 2
    beyond = (oracle.classes(middle) == targets).view(-1, 1, 1, 1)
    return torch.where(beyond, pre, middle), torch.where(beyond, middle, post)


def _deepen(oracle: _Oracle, images: Tensor, step_size: float) -> Tensor:
    """Return each image one step deeper into the class it is in."""
    _, _, direction = oracle.slope(images, None)
    return (images - step_size * direction).clamp(0, 1)
