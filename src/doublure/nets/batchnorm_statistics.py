"""BatchNorm statistics: stored moments of the training data, and distances of a batch to them.

A BatchNorm layer l stores mean m_l and variance v_l of its inputs during training. For a batch of
images, mu_l and s_l are mean and biased variance over all but the channels.
    R_feat = sum_l |mu_l - m_l|_2 + |s_l - v_l|_2        DeepInversion; norms unsquared
    KL     = mean_l mean_c KL( N(m, v) || N(mu, s) )     The Knowledge Within; stored || batch
Both are 0 only if the moments agree; a small difference remains, since stored variances are
unbiased, larger by n / (n - 1). If a layer is called several times in one pass, the moments are
averaged over the calls, as the layer's running statistics are.

The gradients of the norms have a constant size, and are 0 at 0. The KL is unbounded for a variance
that is too small (a collapsed batch), and logarithmic for one that is too large.

Networks without stored statistics are refused; `measured_statistics` measures them on images.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from doublure.core.checks import one_of

# Normalising layers of other architectures, for `measured_statistics`.
_NORMALISING = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
# Added to measured variances: BatchNorm's default.
_EPS = 1e-5


class Moments(NamedTuple):
    """Mean and biased variance of each channel of a batch, or of several sets of images."""

    mean: Float[Tensor, "*sets channels"]
    variance: Float[Tensor, "*sets channels"]


class Stored(NamedTuple):
    """Mean and variance of each channel over the data, and the eps added to variances."""

    mean: Float[Tensor, " channels"]
    variance: Float[Tensor, " channels"]
    eps: float | Float[Tensor, " channels"]


def batch_moments(values: Float[Tensor, "batch channels *positions"]) -> Moments:
    """Return mean and biased variance of each channel, in float32 at least."""
    return Moments(*_Moments.apply(values))  # type: ignore[no-untyped-call]  # torch's


class _Moments(torch.autograd.Function):
    """Mean and biased variance with their gradient, each in one pass over the values.

        d mean / d x = 1 / n        d variance / d x = 2 (x - mean) / n
    Both passes use BatchNorm's kernels: its statistics forward, and a channel-wise affine map
    backward. From `mean` and `square` it would take four passes, and would turn channels-last
    gradients into the default format, also for the convolutions below.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        # Unused running statistics set the precision of the result.
        mean, variance = torch.batch_norm_update_stats(values, *_standard(values), 1.0)
        ctx.save_for_backward(values, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors
        count = values.numel() // values.shape[1]
        slope = of_variance * (2 / count)
        shift = of_mean / count - slope * mean
        return torch.batch_norm(
            *(values, slope, shift, *_standard(values)),
            training=False,
            momentum=0.0,
            eps=0.0,
            cudnn_enabled=False,
        )


def _standard(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean 0 and variance 1 of each channel, in float32 at least."""
    precise = torch.promote_types(values.dtype, torch.float32)
    mean = values.new_zeros(values.shape[1], dtype=precise)
    return mean, torch.ones_like(mean)


def feature_statistics_loss(
    batch: Mapping[str, Moments], stored: Mapping[str, Stored], first_layer_multiplier: float
) -> Float[Tensor, ""]:
    """Return the sum of the unsquared L2 distances of means and variances over layers.

    Args:
        first_layer_multiplier: weight of the layer called first, which has the statistics of
            colours.
    """
    terms = [
        torch.linalg.vector_norm(seen.mean - stored[name].mean)
        + torch.linalg.vector_norm(seen.variance - stored[name].variance)
        for name, seen in batch.items()
    ]
    return torch.stack([first_layer_multiplier * terms[0], *terms[1:]]).sum()


def gaussian_kl(batch: Moments, stored: Stored) -> Float[Tensor, "*sets channels"]:
    """Return KL(N(stored) || N(batch)) of each channel in nats, eps added to both variances."""
    variance, target = batch.variance + stored.eps, stored.variance + stored.eps
    shift = (stored.mean - batch.mean).square()
    return 0.5 * ((variance / target).log() - 1 + (target + shift) / variance)


def batchnorm_kl(batch: Mapping[str, Moments], stored: Mapping[str, Stored]) -> Float[Tensor, ""]:
    """Return the KL divergence, mean over the channels of a layer, then over layers."""
    # All layers at once: for such short rows, a loop over layers costs six times as much.
    known = [stored[name] for name in batch]
    seen = Moments(*(torch.cat(part, dim=-1) for part in zip(*batch.values(), strict=True)))
    eps = [torch.zeros_like(layer.mean) + layer.eps for layer in known]
    joined = Stored(
        torch.cat([layer.mean for layer in known]),
        torch.cat([layer.variance for layer in known]),
        torch.cat(eps),
    )
    each = [torch.full_like(layer.mean, 1 / (len(known) * len(layer.mean))) for layer in known]
    return (gaussian_kl(seen, joined) * torch.cat(each)).sum(-1).mean()


def batchnorm_layers(network: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers that hold statistics, by dotted path; shared ones once."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def by_batch(network: nn.Module) -> str | None:
    """Return the dotted path of the first BatchNorm layer that uses batch statistics.

    Such a layer has no running statistics: in eval mode too, an image's output depends on the rest
    of its batch.
    """
    layers = [name for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)]
    kept = batchnorm_layers(network)
    return next((name for name in layers if name not in kept), None)


def stored_statistics(network: nn.Module) -> dict[str, Stored]:
    """Return the stored statistics of each BatchNorm layer, by dotted path.

    Raises:
        ValueError: if there is no such layer.
    """
    found = {}
    for name, layer in batchnorm_layers(network).items():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, variance = (
            value.detach().float() for value in (layer.running_mean, layer.running_var)
        )
        found[name] = Stored(mean, variance, layer.eps)
    if not found:
        raise ValueError(
            "inversion needs BatchNorm statistics, but the teacher has no BatchNorm layer that "
            "holds any (frozen or folded BatchNorm looks like other weights); use the checkpoint "
            "from before folding, or shaders or surrogate images"
        )
    return found


def normalising_layers(network: nn.Module) -> tuple[str, ...]:
    """Return the dotted paths of the normalising layers of any kind; shared ones once."""
    return tuple(n for n, layer in network.named_modules() if isinstance(layer, _NORMALISING))


@torch.no_grad()
def measured_statistics(
    network: nn.Module, names: Iterable[str], batches: Iterable[Any]
) -> dict[str, Stored]:
    """Return mean and variance of the inputs of the named layers, over all batches together.

    For networks without stored statistics. Raises ValueError if there is no layer or no batch.
    """
    sums: dict[str, Tensor] = {}
    total = 0
    with MomentsRecorder(network, names) as recorder:
        for inputs in batches:
            network(inputs)
            total += len(inputs)
            for name, seen in recorder.read().items():
                mean, variance = seen.mean.double(), seen.variance.double()
                part = len(inputs) * torch.stack([mean, variance + mean.square()])
                sums[name] = sums[name] + part if name in sums else part
    if not sums:
        raise ValueError(
            "statistics need at least one layer and one batch of images; name layers of the "
            "network and give images"
        )
    measured = {}
    for name, value in sums.items():
        mean, square = value / total
        variance = (square - mean.square()).clamp(min=0)
        measured[name] = Stored(mean.float(), variance.float(), _EPS)
    return measured


class MomentsRecorder:
    """Records the moments of the inputs of some layers, differentiably, in calls of the network.

    Use as a context manager or call `close`, which removes all hooks.

    Args:
        names: dotted paths of layers, as in `stored_statistics`.
    """

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        layers = dict(network.named_modules())
        self._seen: dict[str, list[Moments]] = {}
        self._handles: list[RemovableHandle] = []
        names = [one_of("layer to take statistics of", name, layers) for name in names]
        for name in names:
            self._handles.append(layers[name].register_forward_pre_hook(self._taker(name)))

    def _taker(self, name: str) -> Any:
        def take(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0]
            if isinstance(layer, nn.LayerNorm) and values.shape[-1] == layer.normalized_shape[-1]:
                values = values.flatten(0, -2)  # tokens, channels last
            with torch.autocast(values.device.type, enabled=False):
                self._seen.setdefault(name, []).append(batch_moments(values))

        return take

    def read(self) -> dict[str, Moments]:
        """Return the moments of the layers called since the last `read`, in order of calls.

        Raises:
            ValueError: if none of them was called.
        """
        if not self._seen:
            raise ValueError("none of the recorded layers was called")
        read = {}
        for name, seen in self._seen.items():
            mean, variance = (torch.stack(values).mean(0) for values in zip(*seen, strict=True))
            read[name] = Moments(mean, variance)
        self._seen = {}
        return read

    def close(self) -> None:
        """Remove every hook."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> "MomentsRecorder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class MomentsAverage:
    """Moments of a batch, averaged with those of earlier batches.

    With momentum m and average a, `join` returns (1 - m) batch + m a, differentiable in the batch;
    `update` makes that the average, once a batch is finished. For the first batch, or with m = 0,
    it returns the batch's moments. Fang et al., arXiv:2112.06253: m = 0.9, so that the batch has
    1/10 of its gradient.
    """

    def __init__(self, momentum: float) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self._momentum = momentum
        self._average: dict[str, Moments] = {}

    def join(self, batch: Mapping[str, Moments]) -> dict[str, Moments]:
        """Return the average of the moments of the batch and of earlier ones."""
        if not self._momentum:
            return dict(batch)
        return {
            name: self._average_with(seen, self._average.get(name)) for name, seen in batch.items()
        }

    def update(self, batch: Mapping[str, Moments]) -> None:
        """Add a finished batch to the average."""
        joined = self.join(batch)
        self._average = {n: Moments(*(value.detach() for value in m)) for n, m in joined.items()}

    def state_dict(self) -> dict[str, Any]:
        return {name: [value.clone() for value in seen] for name, seen in self._average.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average = {n: Moments(*(value.clone() for value in m)) for n, m in state.items()}

    def _average_with(self, seen: Moments, average: Moments | None) -> Moments:
        if average is None:
            return seen
        mean, variance = (
            torch.lerp(now, before.to(now.device), self._momentum)
            for now, before in zip(seen, average, strict=True)
        )
        return Moments(mean, variance)


class MomentsPool:
    """Moments of the union of a batch and all earlier ones.

    `join` returns mean and variance over the whole set, differentiable in the last batch; `update`
    adds a finished batch to the set. All batches have one size.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def join(self, batch: Mapping[str, Moments]) -> dict[str, Moments]:
        """Return the moments of the set, the batch included."""
        if not self._count:
            return dict(batch)
        pooled = {}
        for name, seen in batch.items():
            sums = self._sums[name].to(seen.mean.device)
            mean = (sums[0] + seen.mean) / (self._count + 1)
            # Deviations from the set's mean: a difference of squares would cancel.
            between = sums[1] - 2 * mean * sums[0] + self._count * mean.square()
            within = sums[2] + seen.variance + (seen.mean - mean).square()
            pooled[name] = Moments(mean, (between + within) / (self._count + 1))
        return pooled

    def update(self, batch: Mapping[str, Moments]) -> None:
        """Add a finished batch to the set."""
        for name, seen in batch.items():
            part = torch.stack([seen.mean, seen.mean.square(), seen.variance]).detach()
            self._sums[name] = self._sums[name] + part if self._count else part
        self._count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count, "sums": {n: v.clone() for n, v in self._sums.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count = state["count"]
        self._sums = {name: value.clone() for name, value in state["sums"].items()}
