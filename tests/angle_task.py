"""A whole task in one module: angle and length of a bright bar, by a network with two heads.

Nothing of the library knows of it; `tests/test_own_task.py` adds it to the tuple of tasks.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doublure.core.findings import Score
from doublure.core.protocols import Batch, Contract, LossTerms, Outputs, Source, image_batch
from doublure.core.seeding import child, from_seed
from doublure.core.words import Words
from doublure.engine.fit import FitSettings
from doublure.engine.method import Facts, Method, MethodInputs
from doublure.engine.optimizers import AdamW
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.task import FinishedRun, JudgingCosts, TrainInputs
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef

_FIT = FitSettings(steps=40, batch_size=32, optimizer=AdamW(), learning_rate=3e-3, weight_decay=0.0)


@dataclass(frozen=True, kw_only=True)
class AngleContract:
    """Grey squares in; "angle" (cosine and sine of twice the angle) and "length" out."""

    size: tuple[int, int] = (16, 16)
    channels: int = 1

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Pixels are taken as they are."""
        return (0.0,), (1.0,)

    def blank(self, count: int, device: torch.device) -> Tensor:
        return torch.zeros(count, self.channels, *self.size, device=device)


@dataclass(frozen=True, kw_only=True)
class AngleDescription:
    architecture: str
    size: tuple[int, int]
    channels: int
    plan: tuple[dict[str, Any], ...] = ()

    @property
    def contract(self) -> AngleContract:
        return AngleContract(size=self.size, channels=self.channels)


class TwoHeads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16), nn.ReLU()
        )
        self.body(torch.zeros(1, 1, 16, 16))
        self.angle, self.length = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images)
        return {"angle": self.angle(features), "length": self.length(features)}


def draw_bars(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return images of bars through the middle, and cosine, sine and length of each."""
    angle = torch.rand(count, generator=rng) * math.pi
    length = 0.3 + 0.6 * torch.rand(count, generator=rng)
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, 16),) * 2, indexing="ij")
    cos, sin = (f(angle)[:, None, None] for f in (torch.cos, torch.sin))
    along, across = columns * cos + rows * sin, rows * cos - columns * sin
    inside = (across.abs() < 0.2) & (along.abs() < length[:, None, None])
    labels = torch.stack([torch.cos(2 * angle), torch.sin(2 * angle), length], 1)
    return inside.float()[:, None], labels


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Source: bars with their angles."""

    seed: int = 0

    def open(self, context: Any, teacher: nn.Module | None, rng: torch.Generator) -> "BarStream":
        return BarStream(context, child(from_seed(self.seed), context.split))


class BarStream:
    def __init__(self, context: Any, rng: torch.Generator) -> None:
        self.context, self.rng = context, rng

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        images, labels = draw_bars(self.context.batch_size, child(self.rng, step))
        return image_batch(images, labels=labels)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class BothHeads:
    """Objective: squared error of both heads, against the teacher or the labels."""

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        wanted = flat(teacher.output) if teacher is not None else batch.labels
        return {"both_heads": F.mse_loss(flat(student.output), wanted)}

    def open(
        self, student: nn.Module, teacher: nn.Module | None, example: Batch, rng: torch.Generator
    ) -> "BothHeadsLoss":
        return BothHeadsLoss(self)


class BothHeadsLoss:
    def __init__(self, settings: BothHeads) -> None:
        from doublure.core.protocols import FeatureNames

        self.settings, self.features = settings, FeatureNames()

    def parameters(self) -> Iterable[nn.Parameter]:
        return ()

    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> LossTerms:
        return self.settings(student, teacher, batch)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def flat(output: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([output["angle"], output["length"]], 1)


def degrees(output: Mapping[str, Tensor]) -> Tensor:
    return torch.atan2(output["angle"][:, 1], output["angle"][:, 0]) * 90 / math.pi


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Return by how many degrees bars differ; 180 are none."""
    return ((one - other + 90) % 180 - 90).abs()


@dataclass(frozen=True, kw_only=True)
class BarData:
    images: Tensor
    labels: Tensor
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class AngleEvaluation:
    error: float
    count: int

    def to_json(self) -> dict[str, Any]:
        return {"scores": {"degrees": self.error}, "count": self.count}

    def lines(self) -> list[str]:
        return [f"degrees  {self.error:.2f} off on {self.count} bars"]

    def table(self) -> None:
        return None


def distil_bars(inputs: MethodInputs) -> tuple[Stage, ...]:
    """Bars, and both heads like the teacher's."""
    return (Stage(source=inputs.base or Bars(), objective=BothHeads(), fit=_FIT),)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What `angles draw` wrote."""

    path: Path
    count: int

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "count": self.count}

    def lines(self) -> list[str]:
        return [f"{self.count} bars in {self.path}"]


def draw(
    out: Path,
    *,
    count: int = 4,
    shift: float | None = None,
    marks: Sequence[str] = (),
    flip: bool = False,
    say: Callable[[str], None] = lambda _: None,
    watch: Callable[[int, dict[str, Any]], None] = lambda _steps, _line: None,
) -> Drawn:
    """Write images of bars to a file.

    Args:
        count: how many.
        shift: brightness that is added,
            in [0, 1].
        flip: turn them upside down.
    """
    images, _ = draw_bars(count, from_seed(0))
    images = images.flip(-2) if flip else images
    torch.save({"images": images + (shift or 0.0), "marks": list(marks)}, out)
    return Drawn(path=out, count=count)


@dataclass(frozen=True, kw_only=True)
class AngleTask:
    """Bars and their angles."""

    name = "angles"
    own_verbs = MappingProxyType({"draw": draw})
    words = Words(
        takes="measures bars",
        shown="bars",
        answered="bar",
        held_out="held-out bars",
        agreement="lie within 5 degrees",
        same="Same angle",
        judged="bars with angles",
        quality="their error",
        unknown="Not scored",
    )
    description = AngleDescription
    methods = (Method(name="bars", stages=distil_bars),)
    options: frozenset[str] = frozenset()
    verbs = frozenset({"train", "distill", "evaluate", "export"})

    def owns(self, contract: Contract) -> bool:
        return isinstance(contract, AngleContract)

    def describe(
        self, contract: AngleContract, architecture: str, plan: tuple[dict[str, Any], ...]
    ) -> AngleDescription:
        return AngleDescription(
            architecture=architecture, size=contract.size, channels=contract.channels, plan=plan
        )

    def builds(self, name: str) -> bool:
        return name.startswith("angles-")

    def contract_for(self, said: NetworkRef, like: Contract | None) -> AngleContract:
        return like if isinstance(like, AngleContract) else AngleContract()

    def build(self, name: str, contract: AngleContract) -> nn.Module:
        return TwoHeads(int(name.partition("-")[2]))

    def check(self, role: str, network: Network[AngleContract]) -> list[str]:
        with torch.no_grad():
            output = freeze(network)(network.contract.blank(1, device_of(network)))
        if output.keys() != {"angle", "length"}:
            raise ValueError(f"the {role} lacks a head")
        return []

    def check_pair(
        self, teacher: AngleContract, student: AngleContract, *, own_label_space: bool
    ) -> None:
        if teacher != student:
            raise ValueError("teacher and student see other bars")

    def owns_data(self, data: str) -> bool:
        return data.startswith("angles:")

    def open_evaluation_data(
        self, data: str, contract: AngleContract, *, skip_bad: bool
    ) -> BarData:
        images, labels = draw_bars(64, child(from_seed(int(data.partition(":")[2])), "test"))
        return BarData(images=images, labels=labels)

    def transfer(self, named: str, contract: AngleContract, *, labels: bool) -> Source:
        return Bars(seed=int(named.partition(":")[2]))

    def default_method(self, *, own_label_space: bool) -> str:
        return "bars"

    def facts(self, teacher: Network, student: Network, *, given_weights: bool) -> Facts:
        return Facts()

    def train_recipe(self, inputs: TrainInputs) -> tuple[Recipe, None]:
        source = Bars(seed=int(inputs.data.partition(":")[2]))
        return recipe("train", source, inputs.reference), None

    def evaluate(
        self,
        network: Network[AngleContract],
        data: BarData,
        *,
        batch_size: int = 256,
        device: torch.device | str | None = None,
    ) -> AngleEvaluation:
        with torch.no_grad():
            output = freeze(network)(data.images)
        scores = self.score([(output, image_batch(data.images, labels=data.labels))])
        return AngleEvaluation(error=scores["degrees"].value, count=len(data))

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
        off = torch.cat(
            [apart(degrees(out), degrees({"angle": batch.labels[:, :2]})) for out, batch in pairs]
        )
        return {"degrees": Score(value=float(off.mean()), count=len(off))}

    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score:
        near = torch.cat([apart(degrees(one), degrees(other)) < 5 for one, other in outputs])
        return Score(value=float(near.float().mean()), count=len(near))

    def judging_costs(
        self, stage: Stage, teacher: Network | None, student: Network, data: Any
    ) -> JudgingCosts:
        return JudgingCosts(scoring=0.1)

    def summarize(self, run: FinishedRun) -> dict[str, Any]:
        values: dict[str, Any] = {"agreement": None, "agreement_count": None, "agreement_on": None}
        for role, network in (("teacher", run.teacher), ("student", run.student)):
            values[f"{role}_scores"] = None
            if network is not None and run.evaluation_data is not None:
                values[f"{role}_scores"] = self.evaluate(network, run.evaluation_data).to_json()[
                    "scores"
                ]
        if run.teacher is not None:
            images, _ = draw_bars(64, from_seed(9))
            with torch.no_grad():
                pair = tuple(freeze(net)(images) for net in (run.student, run.teacher))
            score = self.agreement([pair])
            values |= {"agreement": score.value, "agreement_count": score.count}
            values["agreement_on"] = "held-out bars"
        return values

    def lines(self, summary: Mapping[str, Any], role: str) -> str:
        scores = summary[f"{role}_scores"]
        return "not scored" if scores is None else f"{scores['degrees']:.1f} degrees off"


def recipe(verb: Any, source: Source, student: NetworkRef) -> Recipe:
    stage = Stage(source=source, objective=BothHeads(), fit=_FIT)
    return Recipe(verb=verb, method="bars", student=student, stages=(stage,))
