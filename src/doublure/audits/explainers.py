"""Methods that make saliency maps, as settings: how often each asks the network, and its variants.

A variant differs from the published or usual setting in one hyper-parameter. Masks are drawn from
the seed alone, never from the image or the baseline: two maps that differ in their baseline share
their masks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.audits import saliency_maps
from doublure.audits.saliency_maps import Answer, Estimator
from doublure.core.checks import positive

# Of a gradient: a pass forth and about two back.
_GRADIENT = 3


@runtime_checkable
class Explainer(Protocol):
    """Makes the map of one image.

    Class attributes: `gradients`, whether it needs the network's; `random`, whether a seed matters.
    """

    gradients: ClassVar[bool]
    random: ClassVar[bool]

    def passes(self, size: tuple[int, int]) -> int: ...
    def variants(self) -> dict[str, "Explainer"]: ...
    def explain(
        self,
        answer: Answer,
        image: Float[Tensor, "channels height width"],
        baseline: Float[Tensor, "channels height width"],
        rng: torch.Generator,
        batch_size: int,
    ) -> Float[Tensor, "height width"]: ...


@dataclass(frozen=True, kw_only=True)
class Occlusion:
    """A window that slides over the image.

    Args:
        window: side of the window, as a share of the image's shorter side.
        stride: likewise.
    """

    gradients: ClassVar[bool] = False
    random: ClassVar[bool] = False
    window: float = 0.19
    stride: float = 0.0625

    def _pixels(self, size: tuple[int, int]) -> tuple[int, int]:
        window, stride = (max(1, round(part * min(size))) for part in (self.window, self.stride))
        return window, min(stride, window)

    def passes(self, size: tuple[int, int]) -> int:
        """Return forward passes for an image."""
        window, stride = self._pixels(size)
        counts = [-(-(side - window) // stride) + 1 for side in size]
        return counts[0] * counts[1] + 1

    def variants(self) -> dict[str, Explainer]:
        """Return settings with another window."""
        return {
            f"window {share:g}": replace(self, window=share, stride=2 * self.stride)
            for share in (self.window / 1.5, self.window * 1.5)
        }

    def explain(
        self, answer: Answer, image: Tensor, baseline: Tensor, rng: torch.Generator, batch_size: int
    ) -> Tensor:
        """Return the mean drop of the score over the windows at each pixel."""
        height, width = image.shape[1:]
        windows = saliency_maps.occlusion_windows((height, width), *self._pixels((height, width)))
        masks = torch.cat([torch.ones(1, height, width), 1 - windows.float()])
        scores = saliency_maps.masked_scores(answer, image, baseline, masks, batch_size)
        return saliency_maps.occlusion_map(float(scores[0]), scores[1:], windows)


@dataclass(frozen=True, kw_only=True)
class Rise:
    """Random smooth masks.

    Args:
        num_masks: random masks; of images of 32 pixels, two seeds agree by 0.7 at 300 masks.
        cells: of the grid that masks are enlarged from.
        keep: probability that a cell is kept.
        estimator: "paper", "conditional" or "centred".
    """

    gradients: ClassVar[bool] = False
    random: ClassVar[bool] = True
    num_masks: int = 1000
    cells: int = 7
    keep: float = 0.5
    estimator: Estimator = "centred"

    def __post_init__(self) -> None:
        positive("num_masks", self.num_masks)
        if not 0 < self.keep < 1:
            raise ValueError(f"keep must lie in (0, 1), got {self.keep}")

    def passes(self, size: tuple[int, int]) -> int:
        """Return forward passes for an image."""
        return self.num_masks

    def variants(self) -> dict[str, Explainer]:
        """Return settings with coarser or finer masks, and with fewer cells kept."""
        return {
            "cells 4": replace(self, cells=4),
            "cells 12": replace(self, cells=12),
            "keep 0.2": replace(self, keep=0.2),
        }

    def explain(
        self, answer: Answer, image: Tensor, baseline: Tensor, rng: torch.Generator, batch_size: int
    ) -> Tensor:
        """Return the regression of the score on the masks at each pixel."""
        height, width = image.shape[1:]
        masks = saliency_maps.rise_masks(
            self.num_masks, (height, width), self.cells, self.keep, rng
        )
        scores = saliency_maps.masked_scores(answer, image, baseline, masks, batch_size)
        return saliency_maps.rise_map(scores, masks, self.keep, self.estimator)


@dataclass(frozen=True, kw_only=True)
class Lime:
    """Ridge regression on the segments of a grid.

    Args:
        num_samples: random choices of segments.
        cells: segments along either side.
        width: of the kernel that weighs samples by their distance to the whole image.
        ridge: weight of the penalty.
    """

    gradients: ClassVar[bool] = False
    random: ClassVar[bool] = True
    num_samples: int = 300
    cells: int = 8
    width: float = 0.25
    ridge: float = 1.0

    def passes(self, size: tuple[int, int]) -> int:
        """Return forward passes for an image."""
        return self.num_samples

    def variants(self) -> dict[str, Explainer]:
        """Return settings with larger segments, and with all samples alike."""
        return {"cells 5": replace(self, cells=5), "width 10": replace(self, width=10.0)}

    def explain(
        self, answer: Answer, image: Tensor, baseline: Tensor, rng: torch.Generator, batch_size: int
    ) -> Tensor:
        """Return the coefficient of each pixel's segment."""
        height, width = image.shape[1:]
        segments = saliency_maps.grid_segments((height, width), self.cells)
        on = saliency_maps.random_segments(self.num_samples, self.cells**2, rng)
        masks = on[:, segments].float()
        scores = saliency_maps.masked_scores(answer, image, baseline, masks, batch_size)
        return saliency_maps.lime_coefficients(scores, on, self.width, self.ridge)[segments]


@dataclass(frozen=True, kw_only=True)
class ExtremalPerturbation:
    """The small mask that keeps the score largest.

    Args:
        areas: shares of the image that are kept, a mask each; the map is their mean.
        cells: of the mask, along either side.
        iterations: gradient steps.
    """

    gradients: ClassVar[bool] = True
    random: ClassVar[bool] = False
    areas: tuple[float, ...] = (0.1, 0.3)
    cells: int = 7
    iterations: int = 60

    def passes(self, size: tuple[int, int]) -> int:
        """Return passes for an image, a gradient counted as three."""
        return _GRADIENT * len(self.areas) * self.iterations

    def variants(self) -> dict[str, Explainer]:
        """Return settings with half the steps, and with one area."""
        return {
            "half the steps": replace(self, iterations=self.iterations // 2),
            "area 0.2": replace(self, areas=(0.2,)),
        }

    def explain(
        self, answer: Answer, image: Tensor, baseline: Tensor, rng: torch.Generator, batch_size: int
    ) -> Tensor:
        """Return the mean of the masks of all areas."""
        return saliency_maps.extremal_masks(
            answer, image, baseline, self.areas, self.cells, self.iterations
        ).mean(0)


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    """Gradients along the line from the baseline.

    Args:
        steps: points on the line.
    """

    gradients: ClassVar[bool] = True
    random: ClassVar[bool] = False
    steps: int = 24

    def passes(self, size: tuple[int, int]) -> int:
        """Return passes for an image, a gradient counted as three."""
        return _GRADIENT * self.steps

    def variants(self) -> dict[str, Explainer]:
        """Return settings with fewer points."""
        return {"8 steps": replace(self, steps=8)}

    def explain(
        self, answer: Answer, image: Tensor, baseline: Tensor, rng: torch.Generator, batch_size: int
    ) -> Tensor:
        """Return the attribution of each pixel, summed over channels."""
        return saliency_maps.integrated_gradients(answer, image, baseline, self.steps, batch_size)


@dataclass(frozen=True, kw_only=True)
class GradientTimesInput:
    """The gradient at the image, times its distance to the baseline."""

    gradients: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def passes(self, size: tuple[int, int]) -> int:
        """Return passes for an image, a gradient counted as three."""
        return _GRADIENT

    def variants(self) -> dict[str, Explainer]:
        """It has no hyper-parameter."""
        return {}

    def explain(
        self, answer: Answer, image: Tensor, baseline: Tensor, rng: torch.Generator, batch_size: int
    ) -> Tensor:
        """Return (x - b) grad f(x), summed over channels."""
        return saliency_maps.gradient_times_input(answer, image, baseline)


EXPLAINERS: Mapping[str, Callable[[], Explainer]] = {
    "rise": Rise,
    "occlusion": Occlusion,
    "lime": Lime,
    "extremal": ExtremalPerturbation,
    "integrated-gradients": IntegratedGradients,
    "gradient": GradientTimesInput,
}
