"""One pass over a stream of images: statistics of the teacher's outputs, summed over batches.

Sums are float64, for the stream itself and for resamplings in which image i has the weight w_i ~
Poisson(1): the bootstrap in one pass. Memory does not grow with the number of images; comparisons
between images use `_SIDE_BY_SIDE` of them, evenly spaced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from doublure.audits import transfer_diagnostics as diagnostics
from doublure.core.seeding import child
from doublure.nets.batchnorm_statistics import (
    Moments,
    Stored,
    batchnorm_layers,
    gaussian_kl,
)

NO_FEATURES = "the teacher does not end in an nn.Linear, so its features are unknown"
NO_BATCHNORM = "the teacher has no BatchNorm with running statistics"

# Fifty resamplings give a standard error within 10 %; 1.645 of it is half a 90 % interval.
_RESAMPLINGS = 50
_REACH = 1.645
_SIDE_BY_SIDE = 4096
_NEAR = 0.3
_LEAST_IMAGES = 5
_DUPLICATE_COSINE = 0.999


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 90 % interval under resampling of the images."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class StreamDiagnostics:
    """Diagnostics of a stream of images for a teacher.

    Args:
        measurements: values of `transfer_diagnostics` by name, and some of the stream itself.
        missing: reasons for missing values.
        histogram: images of each class, by the teacher.
        deciles: deciles of the largest probability of each prediction, in increasing order.
        entropy_bias: bias of class_entropy from the finite number of images.
        mean: mean of the pixels per channel.
        std: standard deviation of the pixels per channel.
    """

    count: int
    measurements: Mapping[str, Estimate]
    missing: Mapping[str, str]
    histogram: tuple[int, ...]
    deciles: tuple[float, ...]
    entropy_bias: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def value(self, name: str) -> float | None:
        """Return a value, or None if it is missing."""
        found = self.measurements.get(name)
        return None if found is None else found.value


class TeacherAnswer(NamedTuple):
    """Outputs of a teacher, on the CPU; features are the input of its last linear layer."""

    logits: Float[Tensor, "images classes"]
    features: Float[Tensor, "images features"] | None


class Watch:
    """Calls a teacher and records its features, with hooks only during the call.

    Args:
        teacher: frozen; see `nets.network.freeze`.
    """

    def __init__(self, teacher: nn.Module, classes: int) -> None:
        self._teacher, self._classes = teacher, classes
        heads = [
            layer
            for layer in teacher.modules()
            if isinstance(layer, nn.Linear) and layer.out_features == classes
        ]
        self._head = heads[-1] if heads else None
        self._features: Tensor | None = None

    @torch.no_grad()
    def answer(self, images: Float[Tensor, "batch channels height width"]) -> TeacherAnswer:
        """Return logits (float64) and features (float32) of the images."""
        self._features = None
        handle = None if self._head is None else self._head.register_forward_pre_hook(self._see)
        try:
            with torch.autocast(images.device.type, enabled=False):
                logits = self._teacher(images)
        finally:
            if handle is not None:
                handle.remove()
        if not isinstance(logits, Tensor) or logits.shape != (len(images), self._classes):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"a transfer set is scored by {self._classes} logits per image, but the teacher "
                f"answers {len(images)} images with {shape}; only classifiers can be asked"
            )
        if not logits.isfinite().all():
            bad = int((~logits.isfinite()).any(-1).sum())
            raise ValueError(
                f"the teacher's logits are not finite for {bad} of {len(images)} images; check "
                "its weights with `doublure inspect`"
            )
        return TeacherAnswer(logits.double().cpu(), self._features)

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen = inputs[0].detach()
        self._features = seen.float().cpu() if seen.dim() == 2 else None


class BatchNormTally:
    """Mean and variance of each BatchNorm's input, over a whole stream and resamplings of it.

    Mean and variance of each image are over its positions; the rest is float64, shifted by the
    stored mean. So the result does not depend on the order or the size of the batches.
    """

    def __init__(self, teacher: nn.Module, sets: int) -> None:
        self._layers = list(batchnorm_layers(teacher).values())
        self._sums = [
            torch.zeros(3, sets, layer.num_features, dtype=torch.float64) for layer in self._layers
        ]
        self._totals = [torch.zeros(sets, 1, dtype=torch.float64) for _ in self._layers]
        self._weights = torch.ones(sets, 0, dtype=torch.float64)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def watching(self, weights: Float[Tensor, "sets images"]) -> "BatchNormTally":
        """Return itself, with these weights for the images of the next calls."""
        self._weights = weights
        return self

    def __enter__(self) -> "BatchNormTally":
        for i, layer in enumerate(self._layers):

            def add(module: nn.Module, inputs: tuple[Tensor, ...], i: int = i) -> None:
                self._add(i, inputs[0].detach())

            self._handles.append(layer.register_forward_pre_hook(add))
        return self

    def __exit__(self, *exception: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _add(self, i: int, entering: Tensor) -> None:
        stored = self._layers[i].running_mean
        assert stored is not None
        values = entering.float().reshape(*entering.shape[:2], -1)
        mean = values.mean(-1, keepdim=True)
        # var_mean is forty times slower on the CPU.
        spread = torch.linalg.vector_norm(values - mean, dim=-1)
        variance = spread.cpu().double().square() / values.shape[-1]
        shifted = mean[..., 0].cpu().double() - stored.cpu().double()
        # A network that folds positions into the batch has several rows per image.
        weights = self._weights.repeat_interleave(len(values) // self._weights.shape[1], dim=1)
        self._sums[i] += torch.stack(
            [weights @ shifted, weights @ shifted.square(), weights @ variance]
        )
        self._totals[i] += weights.sum(1, keepdim=True)

    def measurements(self) -> dict[str, Float[Tensor, " sets"]]:
        """Return bn_distance and bn_divergence of each set; nothing if no BatchNorm was called."""
        distances, divergences = [], []
        for layer, sums, total in zip(self._layers, self._sums, self._totals, strict=True):
            if not total[0]:
                continue
            assert layer.running_mean is not None
            assert layer.running_var is not None
            stored_mean = layer.running_mean.double().cpu()
            stored_variance = layer.running_var.double().cpu()
            shift, square, within = sums / total
            variance = (within + square - shift.square()).clamp(min=0)
            moments = Moments(stored_mean + shift, variance)
            stored = Stored(stored_mean, stored_variance, layer.eps)
            distances.append(
                diagnostics.bn_distance(*moments, stored_mean, stored_variance, layer.eps)
            )
            divergences.append(gaussian_kl(moments, stored).mean(-1))
        if not distances:
            return {}
        return {
            "bn_distance": torch.cat(distances, -1).mean(-1),
            "bn_divergence": torch.stack(divergences).mean(0),
        }


class AnswerTally:
    """Sums over the teacher's logits."""

    def __init__(self, classes: int, sets: int, temperature: float) -> None:
        zeros = torch.zeros(sets, classes, dtype=torch.float64)
        self._temperature = temperature
        self.histogram, self._answers, self._softened = zeros, zeros.clone(), zeros.clone()
        # entropy of p and of p at the temperature, confidence, near a boundary, images
        self._means = torch.zeros(sets, 5, dtype=torch.float64)
        self._keys = torch.empty(0, dtype=torch.int64)
        self._pairs = torch.zeros(sets, 0, dtype=torch.float64)

    def add(
        self, logits: Float[Tensor, "images classes"], weights: Float[Tensor, "sets images"]
    ) -> None:
        """Add the images of one batch."""
        log_p = logits.log_softmax(-1)
        log_softened = (logits / self._temperature).log_softmax(-1)
        p = log_p.exp()
        self.histogram.index_add_(1, logits.argmax(-1), weights)
        self._answers += weights @ p
        self._softened += weights @ log_softened.exp()
        of_image = (
            diagnostics.answer_entropy(log_p),
            diagnostics.answer_entropy(log_softened),
            p.amax(-1),
            (diagnostics.margins(p) < _NEAR).double(),
            torch.ones_like(p[:, 0]),
        )
        self._means += weights @ torch.stack(of_image, dim=1)
        keys, pairs = diagnostics.count_pairs(logits, weights)
        self._keys, self._pairs = diagnostics.merge_pairs(
            torch.cat([self._keys, keys]), torch.cat([self._pairs, pairs], dim=1)
        )

    def measurements(self) -> dict[str, Tensor]:
        """Return each value of each set."""
        classes = self.histogram.shape[1]
        total = self._means[:, 4:].clamp(min=1)
        entropy, softened, confidence, near, _ = (self._means / total).unbind(1)
        between = diagnostics.mutual_information
        return {
            "class_entropy": diagnostics.class_entropy(self.histogram),
            "min_class_share": diagnostics.min_class_share(self.histogram),
            "uncovered": diagnostics.uncovered(self.histogram, _LEAST_IMAGES).double(),
            "pair_coverage": diagnostics.pair_coverage(self._keys, self._pairs, classes),
            "mutual_information": between(self._answers / total, entropy),
            "mutual_information_tau": between(self._softened / total, softened),
            "teacher_entropy_tau": softened,
            "confidence": confidence,
            "near_boundary": near,
        }


class PixelTally:
    """Mean and standard deviation of each channel, and the share of values at 0 or 1."""

    def __init__(self, channels: int) -> None:
        self._sums = torch.zeros(3, channels, dtype=torch.float64)
        self._count = 0

    def add(self, images: Float[Tensor, "batch channels height width"]) -> None:
        """Add the pixels of one batch; raises for images outside of [0, 1]."""
        low, high = images.aminmax()
        # A small tolerance for sources that interpolate.
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ValueError(
                f"images must lie in [0, 1], got values from {low:.4g} to {high:.4g}; divide bytes "
                "by 255, and leave the normalisation to the network"
            )
        values = images.cpu().double().transpose(0, 1).flatten(1)
        at_end = ((values <= 0) | (values >= 1)).double()
        self._sums += torch.stack([values.sum(1), values.square().sum(1), at_end.sum(1)])
        self._count += values.shape[1]

    def measurements(self) -> tuple[Tensor, Tensor, float]:
        """Return mean and standard deviation per channel, and the share at either end."""
        mean, square, at_end = self._sums / self._count
        return mean, (square - mean.square()).clamp(min=0).sqrt(), at_end.mean().item()


class StreamTally:
    """All statistics of one pass over a stream.

    Args:
        count: number of images in the stream.
        temperature: temperature of the soft targets.
        centres: cluster centres of a reference stream's features, or None.
        rng: generator of the resamplings.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        classes: int,
        channels: int,
        count: int,
        temperature: float,
        centres: Float[Tensor, "clusters features"] | None,
        rng: torch.Generator,
    ) -> None:
        sets = 1 + _RESAMPLINGS
        self._watch, self._rng = Watch(teacher, classes), rng
        self._answers = AnswerTally(classes, sets, temperature)
        self._batchnorm = BatchNormTally(teacher, sets)
        self._pixels = PixelTally(channels)
        self._centres = centres
        self._hits = torch.zeros(sets, 0 if centres is None else len(centres), dtype=torch.float64)
        self._features: list[Tensor] = []
        self._confidence: list[Tensor] = []
        self._seen, self._count = 0, count

    def add(self, images: Float[Tensor, "batch channels height width"]) -> None:
        """Add the teacher's outputs for one batch."""
        self._pixels.add(images)
        weights = self._draw_weights(len(images))
        with self._batchnorm.watching(weights):
            logits, features = self._watch.answer(images)
        self._answers.add(logits, weights)
        kept = evenly_spaced(self._seen, len(images), self._count, _SIDE_BY_SIDE)
        self._confidence.append(logits[kept].softmax(-1).amax(-1))
        if features is not None:
            self._features.append(features[kept])
            if self._centres is not None:
                cluster = diagnostics.nearest_centre(features, self._centres)
                self._hits.index_add_(1, cluster, weights)
        self._seen += len(images)

    def finish(self) -> StreamDiagnostics:
        """Return the diagnostics of all images added."""
        measurements = self._answers.measurements()
        missing: dict[str, str] = {}
        of_batchnorm = self._batchnorm.measurements()
        if not of_batchnorm:
            missing |= dict.fromkeys(("bn_distance", "bn_divergence"), NO_BATCHNORM)
        measurements |= of_batchnorm
        if not self._features:
            missing |= dict.fromkeys(
                ("feature_coverage", "feature_rank", "duplicates"), NO_FEATURES
            )
        elif self._centres is None:
            missing["feature_coverage"] = "there is no reference stream to compare with"
        else:
            measurements["feature_coverage"] = (self._hits > 0).double().mean(1)
        estimates = {name: _estimate(name, values) for name, values in measurements.items()}
        if self._features:
            estimates |= _side_by_side(torch.cat(self._features))
        mean, std, clipped = self._pixels.measurements()
        estimates["clipped"] = Estimate(value=clipped, low=clipped, high=clipped)
        levels = torch.linspace(0, 1, 11, dtype=torch.float64)
        histogram = self._answers.histogram[0]
        return StreamDiagnostics(
            count=self._seen,
            measurements=estimates,
            missing=missing,
            histogram=tuple(histogram.long().tolist()),
            deciles=tuple(torch.cat(self._confidence).quantile(levels).tolist()),
            entropy_bias=diagnostics.entropy_bias(histogram).item(),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
        )

    def _draw_weights(self, images: int) -> Float[Tensor, "sets images"]:
        rates = torch.ones(_RESAMPLINGS, images, dtype=torch.float64)
        drawn = torch.poisson(rates, generator=child(self._rng, self._seen))
        return torch.cat([torch.ones(1, images, dtype=torch.float64), drawn])


def evenly_spaced(first: int, images: int, total: int, most: int) -> Tensor:
    """Return which images, from `first` on, are among `most` evenly spaced ones of `total`."""
    place = torch.arange(first, first + images)
    return place * most // total > (place - 1) * most // total


def _side_by_side(features: Tensor) -> dict[str, Estimate]:
    rank = diagnostics.feature_rank(features)
    twice = diagnostics.has_duplicate(features, _DUPLICATE_COSINE).double()
    error = (twice.var(correction=0) / len(twice)).sqrt().item()
    return {
        "feature_rank": Estimate(value=rank, low=rank, high=rank),
        "duplicates": _between(twice.mean().item(), error, 1.0),
    }


def _estimate(name: str, values: Tensor) -> Estimate:
    # Centred at the value itself: resamplings repeat images, and so cover less than the set.
    bound = torch.inf if name in ("uncovered", "bn_distance", "bn_divergence") else 1.0
    return _between(values[0].item(), values[1:].std().item(), bound)


def _between(value: float, error: float, bound: float) -> Estimate:
    # Rounding may give a small variance where there is none.
    reach = _REACH * error if error > 1e-9 else 0.0
    low, high = max(0.0, value - reach), min(bound, value + reach)
    return Estimate(value=value, low=min(low, value), high=max(high, value))
