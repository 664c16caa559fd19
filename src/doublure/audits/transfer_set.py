"""The transfer-set report: quality of a set for a teacher, before training and without labels.

Every value is measured twice: on the raw images of the source, and on the stream as fed to the
student, augmented, mixed and attacked. A set with balanced raw images need not be balanced as fed.

Frank, Davis: What Makes a Good Dataset for Knowledge Distillation?, arXiv:2411.12817. The paper
uses class entropy and visual inspection; the other values, the verdict and the ranking are ours.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sized

import torch
from jaxtyping import Float
from torch import Tensor

from doublure.audits.calibration import Calibration, NotCalibrated, Prediction
from doublure.audits.transfer_card import Side, TransferSetCard, VerdictLimits, judge, out_of_range
from doublure.audits.transfer_reference import reference_centres
from doublure.audits.transfer_tally import (
    Estimate,
    StreamDiagnostics,
    StreamTally,
    Watch,
    evenly_spaced,
)
from doublure.core.checks import positive
from doublure.core.protocols import (
    CombiningSource,
    InputContract,
    Source,
    Stream,
    StreamContext,
    WrappingSource,
    innermost,
)
from doublure.core.seeding import child, from_seed
from doublure.core.statistics import wilson_interval
from doublure.nets.boundary import BoundaryAttack, boundary_distance
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze
from doublure.sources.augmentation import Augmented, augment

# Number of images of each stream in `score` and in every run, as in the calibration.
COUNT = 1024
# Larger batches do not fit into a core's cache.
_BATCH = 128
_ATTACKED = 256
_ATTACK = BoundaryAttack(bisections=6)
_LEVEL = 0.9
# Pixel statistics this far from the contract's (in standard deviations, or as a ratio) give a note.
_SHIFT, _RATIO = 1.0, 3.0
_CLIPPED = 0.25


class TransferSetScorer:
    """Scores transfer sets for one teacher, with common data computed once.

    Args:
        temperature: temperature of the soft targets of the student's training.
        calibration: the constants of the prediction; None for no prediction.
        watch: callback for the progress.
    """

    def __init__(
        self,
        teacher: Network,
        *,
        temperature: float,
        calibration: Calibration | None,
        limits: VerdictLimits | None = None,
        watch: Callable[[str], None] = lambda _: None,
    ) -> None:
        positive("temperature", temperature)
        self._network = teacher
        self._teacher = freeze(teacher)
        self._contract = teacher.contract
        self._device = device_of(teacher)
        self._temperature, self._calibration = temperature, calibration
        self._limits = limits or VerdictLimits()
        self._watch = watch
        watch("reference images")
        self._centres = reference_centres(self._teacher, self._contract, self._device)

    def score(
        self, source: Source, *, name: str, count: int, seed: int, run_length: int | None = None
    ) -> TransferSetCard:
        """Return the report card of a source with its wrappers.

        Args:
            count: number of images, from each of the two streams.
            run_length: number of images in the run, for sources that plan ahead; None means only
                those that are scored.
        """
        positive("count", count)
        length = max(count, run_length or 0)
        inner, rng = innermost(source), from_seed(seed)
        raw, images = self._examine(inner, name, count, length, child(rng, "raw"))
        fed = None
        if inner is not source:
            raw = self._with_agreement(raw, source, images, child(rng, "agreement"))
            told = f"{name}, as fed"
            fed, _ = self._examine(source, told, count, length, child(rng, "fed"))
        shown = raw if fed is None else fed
        verdict, reasons = judge(shown, self._limits)
        return TransferSetCard(
            name=name,
            teacher=self._network.reference,
            contract=self._contract,
            count=count,
            seed=seed,
            temperature=self._temperature,
            wrappers=tuple(type(wrapper).__name__.lower() for wrapper in _wrappers(source))[::-1],
            raw=raw,
            fed=fed,
            verdict=verdict,
            reasons=reasons,
            notes=tuple(_notes(raw, shown, self._contract, self._limits)),
            prediction=self._predict(shown),
            limits=self._limits,
        )

    def _examine(
        self, source: Source, name: str, count: int, length: int, rng: torch.Generator
    ) -> tuple[StreamDiagnostics, Tensor]:
        """Return the diagnostics of a stream and some of its images, evenly spaced."""
        self._watch(f"{name}: getting ready")
        steps = -(-length // _BATCH)
        context = StreamContext(
            contract=self._contract, device=self._device, batch_size=_BATCH, steps=steps
        )
        stream = source.open(context, self._teacher, child(rng, "source"))
        if isinstance(stream, Sized):
            # A second epoch has no new images.
            count = min(count, len(stream))
        tally = StreamTally(
            self._teacher,
            classes=self._contract.classes,
            channels=self._contract.channels,
            count=count,
            temperature=self._temperature,
            centres=self._centres,
            rng=child(rng, "resampling"),
        )
        some, seen = [], 0
        for images in _draw(stream, count):
            tally.add(images)
            some.append(images[evenly_spaced(seen, len(images), count, _ATTACKED)].clone())
            seen += len(images)
            self._watch(f"{name}: {seen:,} of {count:,} images")
        kept = torch.cat(some)
        found = tally.finish()
        measurements = {**found.measurements, **self._boundary(kept, child(rng, "boundary"))}
        return dataclasses.replace(found, measurements=measurements), kept

    def _boundary(self, images: Tensor, rng: torch.Generator) -> dict[str, Estimate]:
        if self._contract.classes < 2:
            return {}
        distances = torch.cat(
            [
                boundary_distance(self._teacher, part, _ATTACK).distances.cpu()
                for part in torch.split(images, _BATCH)
            ]
        )
        reached = distances[distances.isfinite()].double()
        measurements = {"boundary_success": _share(len(reached), len(distances))}
        if len(reached):
            drawn = torch.randint(len(reached), (200, len(reached)), generator=rng)
            tails = torch.tensor([(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], dtype=torch.float64)
            low, high = reached[drawn].median(1).values.quantile(tails).tolist()
            value = reached.median().item()
            measurements["boundary_distance"] = Estimate(value=value, low=low, high=high)
        return measurements

    def _with_agreement(
        self, raw: StreamDiagnostics, source: Source, images: Tensor, rng: torch.Generator
    ) -> StreamDiagnostics:
        """Return the diagnostics with the share of images whose class augmentation keeps."""
        changes = [w.augmentation for w in _wrappers(source) if isinstance(w, Augmented)]
        if not changes:
            return raw
        watch = Watch(self._teacher, self._contract.classes)
        same = 0
        for part in torch.split(images, _BATCH):
            before = watch.answer(part).logits.argmax(-1)
            changed = part
            for change in reversed(changes):
                changed = augment(changed, change, child(rng, same))
            same += int((watch.answer(changed).logits.argmax(-1) == before).sum())
        measurements = {**raw.measurements, "augmentation_agreement": _share(same, len(images))}
        return dataclasses.replace(raw, measurements=measurements)

    def _predict(self, shown: StreamDiagnostics) -> Prediction | NotCalibrated:
        if self._calibration is None:
            return NotCalibrated(reason="no calibration at hand")
        values = {name: estimate.value for name, estimate in shown.measurements.items()}
        return self._calibration.predict(values, self._contract, shown.count)


def score_transfer_set(
    teacher: Network,
    source: Source,
    *,
    name: str,
    count: int,
    seed: int,
    temperature: float,
    run_length: int | None = None,
    calibration: Calibration | None = None,
    limits: VerdictLimits | None = None,
) -> TransferSetCard:
    """Return the report card of one transfer set; see `TransferSetScorer` for several."""
    scorer = TransferSetScorer(
        teacher, temperature=temperature, calibration=calibration, limits=limits
    )
    return scorer.score(source, name=name, count=count, seed=seed, run_length=run_length)


def _draw(stream: Stream, count: int) -> Iterator[Float[Tensor, "batch channels height width"]]:
    """Yield the first images of a stream as the teacher sees them, `count` in all."""
    for step in range(-(-count // _BATCH)):
        images = stream.draw(step, None).views["teacher"]
        if not isinstance(images, Tensor) or images.dim() != 4:
            raise ValueError(
                f"a transfer set is scored by images [batch, channels, height, width], but "
                f"{type(stream).__name__} draws {type(images).__name__}"
            )
        yield images[: count - step * _BATCH]


def _wrappers(source: Source) -> list[Source]:
    """Return the wrappers of the innermost source, outermost first."""
    if source is innermost(source):
        return []
    if isinstance(source, WrappingSource):
        return [source, *_wrappers(source.source)]
    if isinstance(source, CombiningSource):
        return [source, *_wrappers(source.sources[0])]
    return []


def _share(part: int, whole: int) -> Estimate:
    low, high = wilson_interval(part, whole, _LEVEL)
    return Estimate(value=part / whole, low=low, high=high)


def _notes(
    raw: StreamDiagnostics, shown: StreamDiagnostics, contract: InputContract, limits: VerdictLimits
) -> Iterator[str]:
    """Yield remarks in addition to the verdict."""
    for name, (value, side) in out_of_range(raw, shown, limits).items():
        hint = _WARNS_OF.get(name, {}).get(side)
        if hint is not None:
            yield f"{name} {value:.2f}: {hint}"
    if shown.entropy_bias > 0.01:
        yield (
            f"class_entropy is about {shown.entropy_bias:.2f} too low, for only "
            f"{shown.count} images were looked at"
        )
    for channel, (mean, std) in enumerate(zip(raw.mean, raw.std, strict=True)):
        shift = abs(mean - contract.mean[channel]) / contract.std[channel]
        ratio = std / contract.std[channel]
        if shift > _SHIFT or not 1 / _RATIO < ratio < _RATIO:
            yield (
                f"channel {channel} has mean {mean:.2f} and std {std:.2f}, the network was "
                f"normalised for {contract.mean[channel]:.2f} and {contract.std[channel]:.2f}"
            )
            break
    clipped = raw.value("clipped")
    if clipped is not None and clipped > _CLIPPED:
        yield f"{clipped:.0%} of the pixel values are exactly 0 or 1"


_WARNS_OF: dict[str, dict[Side, str]] = {
    "near_boundary": {
        "low": "the teacher is certain of nearly all images; attack or mix them",
        "high": "the teacher wavers at most images; few are clearly of one class",
    },
    "boundary_success": {
        "low": "few attacks reach a boundary; the teacher's gradients may be masked",
    },
    "feature_coverage": {"low": "much of what the teacher can tell apart is not shown"},
    "duplicates": {"high": "the source repeats images"},
    "teacher_entropy_tau": {
        "low": "softened answers name one class alone; a higher temperature shows the others",
        "high": "softened answers are nearly even; a lower temperature tells classes apart",
    },
}
