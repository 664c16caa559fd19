"""Image optimisation: optimise a batch of images from noise under any loss.

x ~ N(0, 1) in the network's normalised space. Adam updates x, on the loss of x rolled by a random
shift and sometimes flipped; the iterate with the smallest loss is kept. An optional coarse stage
first optimises a smaller image, which is then enlarged (nearest neighbour) and refined.

The public implementation of DeepInversion returns the last iterate (or pairs an image with the
loss before it). Its coarse stage pools a full-size image, where ours optimises a small one: with
pooling, the four pixels of a block get equal gradients, and the noise between them remains.
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
# Arguments: the rolled images, in [0, 1], and the images before the roll, normalised.
ImageLoss = Callable[[Tensor, Tensor], Tensor]
Schedule = Literal["constant", "cosine"]


class Optimised(NamedTuple):
    """The result of an optimisation.

    Args:
        images: the best iterate, clipped to [0, 1].
        loss: its loss before clipping, the smallest of all iterates.
        iterations: number of iterations, over all stages.
        image_passes: number of images through the loss; forward and backward count as one, coarse
            images by their number of pixels.
        path: the first images after some numbers of iterations, if requested; in [0, 1], at full
            size.
    """

    images: Images
    loss: Float[Tensor, ""]
    iterations: int
    image_passes: float
    path: Mapping[int, Images]


class Keep(NamedTuple):
    """Which intermediate images of an optimisation are kept.

    Args:
        at: numbers of iterations after which they are kept.
        images: number of images, from the start of the batch.
    """

    at: Collection[int] = ()
    images: int = 0


def roll(images: Images, shift: tuple[int, int], *, mirrored: bool) -> Images:
    """Return the images rolled cyclically by rows and columns, and flipped if `mirrored`.

    Only networks get the rolled image; image priors are computed without the seam.
    """
    rolled = torch.roll(images, shift, dims=(2, 3))
    return rolled.flip(3) if mirrored else rolled


@dataclass(frozen=True, kw_only=True)
class ImageOptimisation:
    """Settings of the optimisation of a batch. Default: DeepInversion's for CIFAR-10.

    Args:
        iterations: number of steps at full size.
        learning_rate: learning rate of Adam.
        betas: betas of Adam.
        schedule: learning rate schedule, "constant" or "cosine".
        warmup: iterations of linear warm-up for "cosine", which then falls to zero.
        jitter: maximum roll in pixels, in both directions.
        flip: probability that a batch is flipped horizontally.
        clamp: clamp each iterate to [0, 1]; otherwise only the result is clipped.
        coarse_iterations: number of steps at the coarse size, before the others.
        coarse_factor: divisor of height and width in the coarse stage.
        patience: stop if this many iterations reduced the smallest loss by less than the share
            `tolerance`; None runs all iterations.
        tolerance: relative reduction of the loss that `patience` needs.
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
        """Maximum number of passes of each image through the loss, in full-size passes."""
        return self.iterations + self.coarse_iterations / self.coarse_factor**2

    def draft(self) -> "ImageOptimisation":
        """Return settings with a single step, for images of which only the shape is used."""
        return dataclasses.replace(self, iterations=1, coarse_iterations=0)

    def rate_at(self, iteration: int, iterations: int) -> float:
        """Return the learning rate of an iteration of a stage, counted from 0."""
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
    ) -> Optimised:
        """Return an optimised batch.

        Args:
            rng: a generator on the device of the images.

        Raises:
            ValueError: the loss is not finite.
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
        for stage, (size, limit, jitter) in enumerate(stages):
            if tuple(x.shape[2:]) != size:
                x = F.interpolate(x, size=size, mode="nearest")
            descent = _Descent(self, contract, x, limit, jitter, child(rng, "moves", stage))
            stage_iterations = {at - iterations for at in keep.at}
            x, smallest, num_iterations = descent.run(loss, Keep(stage_iterations, keep.images))
            for at, iterate in descent.path.items():
                path[iterations + at] = descent.to_images(iterate, contract)
            iterations += num_iterations
            passes += num_images * num_iterations * (size[0] * size[1]) / (height * width)
        return Optimised(descent.to_images(x, contract), smallest, iterations, passes, path)


class _Descent:
    """One stage of an optimisation."""

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

    def to_images(self, x: Tensor, contract: InputContract) -> Images:
        """Return an iterate as images in [0, 1] at full size."""
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
        last_smallest, num_iterations = math.inf, 0
        for i, shift in enumerate(self._shifts):
            if i in keep.at:
                self.path[i] = x.detach()[: keep.images].clone()
            adam.param_groups[0]["lr"] = settings.rate_at(i, self._iterations)
            with torch.enable_grad():
                images = x * self.std + self.mean
                value = loss(roll(images, shift, mirrored=self._mirrored[i]), x)
                (x.grad,) = torch.autograd.grad(value, x)
            with torch.no_grad():  # tensor operations only: reading a value would stall a GPU
                best = torch.where(value < smallest, x, best)
                smallest = torch.minimum(value, smallest)
            adam.step()
            if settings.clamp:
                with torch.no_grad():
                    x.copy_(torch.minimum(torch.maximum(x, low), high))
            num_iterations = i + 1
            if settings.patience is not None and num_iterations % settings.patience == 0:
                if smallest.item() > (1 - settings.tolerance) * last_smallest:
                    break
                last_smallest = smallest.item()
        if not value.isfinite():
            raise ValueError(
                "the loss of the image optimisation is not finite; lower its learning_rate or the "
                "weights of its terms"
            )
        return best.detach(), smallest.detach(), num_iterations
