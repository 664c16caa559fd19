"""Images found by gradient: a batch is optimised from noise under any loss.

x ~ N(0, 1) in the network's normalised space; Adam steps on x, on the loss of x rolled by a random
shift and mirrored now and then; the iterate with the smallest loss is kept. A coarse stage first
optimises a smaller image, which is then enlarged to its nearest pixels and refined.

The public implementation of DeepInversion returns the last iterate (or pairs an image with the
loss before it), and pools a full-size image where this optimises a small one: pooled, the four
pixels of a block get equal gradients, and the noise between them stays.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from doublure.core.checks import one_of, positive, share
from doublure.core.protocols import InputContract
from doublure.core.seeding import child

Images = Float[Tensor, "batch channels height width"]
# Is given the images moved, in the units of [0, 1], and the images themselves, normalised.
ImageLoss = Callable[[Tensor, Tensor], Tensor]
Schedule = Literal["constant", "cosine"]


class Found(NamedTuple):
    """What a search found.

    Args:
        images: in [0, 1].
        loss: the smallest seen, of `images` before they were clipped.
        iterations: how many it took, over all stages.
        image_passes: images through the loss, forward and backward as one; coarse ones count by
            their pixels.
        path: what the first images were after so many iterations, where that was asked for; in
            [0, 1], and as large as those found.
    """

    images: Images
    loss: Float[Tensor, ""]
    iterations: int
    image_passes: float
    path: Mapping[int, Images]


class Keep(NamedTuple):
    """What is kept of the way to a batch.

    Args:
        at: numbers of iterations after which it is looked at.
        images: how many of the batch, the first ones.
    """

    at: Collection[int] = ()
    images: int = 0


def moved(images: Images, shift: tuple[int, int], *, mirrored: bool) -> Images:
    """Return the images rolled by rows and columns, what leaves at one side entering at the other.

    The seam is for a network to see only: smoothness is asked of the image as it was.
    """
    rolled = torch.roll(images, shift, dims=(2, 3))
    return rolled.flip(3) if mirrored else rolled


@dataclass(frozen=True, kw_only=True)
class ImageOptimisation:
    """How a batch is optimised. Default: DeepInversion's on CIFAR-10.

    Args:
        iterations: steps on the image, at its full size.
        learning_rate: of Adam.
        betas: of Adam.
        schedule: of the rate, "constant" or "cosine".
        warmup: iterations in which the rate of "cosine" rises linearly; then it falls to zero.
        jitter: pixels by which images are rolled at most, either way.
        flip: how likely a batch is mirrored.
        clamp: keep each iterate in the range of an image; otherwise only the result is clipped.
        coarse_iterations: before the others, on images smaller by `coarse_factor`.
        coarse_factor: by how much height and width are smaller then.
        patience: stop once so many iterations lowered the smallest loss by less than `tolerance`
            of it; None goes on to the end.
        tolerance: the share of the smallest loss that counts as lower.
    """

    iterations: int = 2000
    learning_rate: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = "constant"
    warmup: int = 100
    jitter: int = 2
    flip: float = 0.0
    clamp: bool = False
    coarse_iterations: int = 0
    coarse_factor: int = 2
    patience: int | None = None
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        for name in ("iterations", "learning_rate"):
            positive(name, getattr(self, name))
        for name in ("warmup", "jitter", "coarse_iterations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.coarse_factor < 2:
            raise ValueError(f"coarse_factor must be at least 2, got {self.coarse_factor}")
        one_of("schedule", self.schedule, get_args(Schedule))
        share("flip", self.flip)
        share("tolerance", self.tolerance)
        if self.patience is not None:
            positive("patience", self.patience)

    @property
    def passes_per_image(self) -> float:
        """How often each image goes through the loss at most, at its full size."""
        return self.iterations + self.coarse_iterations / self.coarse_factor**2

    def draft(self) -> "ImageOptimisation":
        """Return a search of one step, for images that only their shape is asked of."""
        return dataclasses.replace(self, iterations=1, coarse_iterations=0)

    def rate_at(self, iteration: int, iterations: int) -> float:
        """Return the learning rate of one iteration of a stage, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        warmup = min(self.warmup, iterations // 2)
        if iteration < warmup:
            return self.learning_rate * (iteration + 1) / warmup
        done = (iteration - warmup) / (iterations - warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def __call__(
        self,
        loss: ImageLoss,
        num_images: int,
        contract: InputContract,
        rng: torch.Generator,
        keep: Keep | None = None,
    ) -> Found:
        """Return a batch with a small loss.

        Args:
            rng: on the device where the images shall be.

        Raises:
            ValueError: if the loss is not finite.
        """
        height, width = contract.size
        stages = [(contract.size, self.iterations, self.jitter)]
        if self.coarse_iterations:
            factor = self.coarse_factor
            small = (max(1, height // factor), max(1, width // factor))
            stages.insert(0, (small, self.coarse_iterations, self.jitter // factor))
        keep = keep or Keep()
        shape = (num_images, contract.channels, *stages[0][0])
        x = torch.randn(shape, generator=rng, device=rng.device)
        iterations, passes = 0, 0.0
        path: dict[int, Images] = {}
        for stage, (size, at_most, jitter) in enumerate(stages):
            if tuple(x.shape[2:]) != size:
                x = F.interpolate(x, size=size, mode="nearest")
            descent = _Descent(self, contract, x, at_most, jitter, child(rng, "moves", stage))
            here = {at - iterations for at in keep.at}
            x, smallest, taken = descent.run(loss, Keep(here, keep.images))
            for at, iterate in descent.path.items():
                path[iterations + at] = descent.shown(iterate, contract)
            iterations += taken
            passes += num_images * taken * (size[0] * size[1]) / (height * width)
        return Found(descent.shown(x, contract), smallest, iterations, passes, path)


class _Descent:
    """One stage of a search."""

    def __init__(
        self,
        settings: ImageOptimisation,
        contract: InputContract,
        start: Tensor,
        iterations: int,
        jitter: int,
        rng: torch.Generator,
    ) -> None:
        self._settings, self._start, self._iterations = settings, start, iterations
        self.mean, self.std = (
            torch.tensor(values, device=start.device).view(1, -1, 1, 1)
            for values in (contract.mean, contract.std)
        )
        shifts = torch.randint(-jitter, jitter + 1, (iterations, 2), generator=rng)
        self._shifts: list[tuple[int, int]] = [(row, column) for row, column in shifts.tolist()]
        self._mirrored = (torch.rand(iterations, generator=rng) < settings.flip).tolist()
        self.path: dict[int, Tensor] = {}

    def shown(self, x: Tensor, contract: InputContract) -> Images:
        """Return an iterate as images of the full size."""
        images = (x * self.std + self.mean).clamp(0, 1)
        if tuple(images.shape[2:]) == contract.size:
            return images
        return F.interpolate(images, size=contract.size, mode="nearest")

    def run(self, loss: ImageLoss, keep: Keep) -> tuple[Tensor, Tensor, int]:
        """Return the best iterate, its loss, and the number of iterations; fill `path`."""
        settings = self._settings
        x = self._start.clone().requires_grad_()
        low, high = -self.mean / self.std, (1 - self.mean) / self.std
        adam = torch.optim.Adam([x], lr=settings.learning_rate, betas=settings.betas)
        best, smallest = self._start, torch.full((), torch.inf, device=x.device)
        looked_at, taken = math.inf, 0
        for i, shift in enumerate(self._shifts):
            if i in keep.at:
                self.path[i] = x.detach()[: keep.images].clone()
            adam.param_groups[0]["lr"] = settings.rate_at(i, self._iterations)
            with torch.enable_grad():
                images = x * self.std + self.mean
                value = loss(moved(images, shift, mirrored=self._mirrored[i]), x)
                (x.grad,) = torch.autograd.grad(value, x)
            with torch.no_grad():  # without a readback, which would stall a GPU
                best = torch.where(value < smallest, x, best)
                smallest = torch.minimum(value, smallest)
            adam.step()
            if settings.clamp:
                with torch.no_grad():
                    x.copy_(torch.minimum(torch.maximum(x, low), high))
            taken = i + 1
            if settings.patience is not None and taken % settings.patience == 0:
                if smallest.item() > (1 - settings.tolerance) * looked_at:
                    break
                looked_at = smallest.item()
        if not value.isfinite():
            raise ValueError(
                "the loss of the images became non-finite; lower the search's learning_rate or "
                "the weights of its terms"
            )
        return best.detach(), smallest.detach(), taken
