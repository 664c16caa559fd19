"""Size of a network, and speed of each of its forms.

Times are medians over interleaved rounds in one process: every form is timed once per round, with
the same number of threads, so that other load affects all of them equally. Read them as ratios.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from doublure.core.checks import positive
from doublure.nets.memory_format import to_channels_first_
from doublure.nets.network import Network, freeze
from doublure.nets.quantized import is_quantized

Answer = Callable[[Tensor], Any]
# With fewer than three rounds a median does not exclude an interruption.
_FEWEST = 3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Duration of measurements.

    Args:
        batch_size: for images per second; latency is always that of one image.
        rounds: maximum number of timed calls per form; `seconds` may end them earlier, after three.
        seconds: time for all forms together, at each of the two batch sizes.
    """

    batch_size: int = 64
    rounds: int = 30
    seconds: float = 4.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "rounds", "seconds"):
            positive(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class LatencyRatio:
    """Median milliseconds for one image, and images per second in batches."""

    latency_ms: float
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One form of a network, and its comparison with the network.

    Args:
        form: "onnx", "int8-onnx", "pt2", "safetensors", or "torch" for the network as it is.
        path: file name in the export's folder; None without a file.
        bytes: size of the file.
        weight_bytes: size of its constants.
        max_difference: largest absolute difference of two logits on the probe images.
        agreement: share of probe images with equal top-1.
        quantize_nodes: QuantizeLinear and DequantizeLinear nodes; None for a float form.
        accuracy: accuracy on labelled images, or None without any.
        scores: scores of a task other than accuracy, or None.
        note: remark for the reader, or "".
    """

    form: str
    path: str | None
    bytes: int
    weight_bytes: int
    latency_ms: float
    images_per_second: float
    max_difference: float
    agreement: float
    quantize_nodes: int | None = None
    accuracy: float | None = None
    scores: dict[str, float] | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return asdict(self)


def count_flops(network: Network) -> int:
    """Return the floating-point operations of one image, a multiply-add counting as two."""
    contract = network.contract
    image = torch.zeros(1, contract.channels, *contract.size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        freeze(network).to("cpu", torch.float32)(image)
    return int(counter.get_total_flops())


def time_forms(
    forms: Mapping[str, Answer],
    probe: Float[Tensor, "batch channels height width"],
    timing: Timing,
) -> dict[str, LatencyRatio]:
    """Return the speed of every form, measured together.

    Args:
        probe: input images; repeated if a batch needs more.
    """
    repeats = -(-timing.batch_size // len(probe))
    batch = probe.repeat(repeats, 1, 1, 1)[: timing.batch_size].contiguous()
    alone = _medians(forms, batch[:1].clone(), timing)
    together = _medians(forms, batch, timing)
    return {
        name: LatencyRatio(
            latency_ms=1e3 * alone[name], images_per_second=len(batch) / together[name]
        )
        for name in forms
    }


def time_pair(
    teacher: Network,
    student: Network,
    probe: Float[Tensor, "batch channels height width"],
    timing: Timing,
) -> dict[str, Any]:
    """Return the speeds of teacher and student on the CPU in float32, for a summary.

    A quantized network is not timed: its simulated rounding costs time.
    """
    forms = {"teacher": on_cpu(teacher), "student": on_cpu(student)}
    paces = {} if is_quantized(student) else time_forms(forms, probe.float().cpu(), timing)
    told: dict[str, Any] = {"timed_in_batches_of": timing.batch_size if paces else None}
    for name in forms:
        pace = paces.get(name)
        told[f"{name}_latency_ms"] = None if pace is None else pace.latency_ms
        told[f"{name}_answers_per_second"] = None if pace is None else pace.images_per_second
    return told


def on_cpu(network: Network[Any]) -> Answer:
    """Return the network's function on the CPU in float32; the network is unchanged."""
    frozen = freeze(network).to("cpu", torch.float32)
    to_channels_first_(frozen)

    def answer(images: Tensor) -> Any:
        with torch.inference_mode():
            return frozen(images)

    return answer


def _medians(forms: Mapping[str, Answer], images: Tensor, timing: Timing) -> dict[str, float]:
    """Return the median seconds of one call of each form."""
    for answer in forms.values():
        answer(images)  # the first call allocates and compiles
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    end = time.perf_counter() + timing.seconds
    for done in range(timing.rounds):
        if done >= _FEWEST and time.perf_counter() > end:
            break
        for name, answer in forms.items():
            begin = time.perf_counter()
            answer(images)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}
