"""Segmentation as the engine knows it: networks that take one image and answer every pixel."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from doublure.compress.inherit import share_in_common
from doublure.core.findings import Score
from doublure.core.protocols import Batch, Contract, InputContract, Source
from doublure.core.words import Words
from doublure.data.image_set import is_begun
from doublure.data.scenes import SceneData, names_scenes, open_scenes, scene_contract
from doublure.data.student_file import ImageDescription
from doublure.engine.method import Facts, Method
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.stage_costs import seconds_to_answer
from doublure.engine.task import EvaluationData, FinishedRun, JudgingCosts, TrainInputs
from doublure.nets.batchnorm_statistics import batchnorm_layers
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.sources.scenes import Scenes
from doublure.sources.surrogate import Surrogate
from doublure.tasks.segmentation import recipes
from doublure.tasks.segmentation.checks import check_maps, check_same_maps
from doublure.tasks.segmentation.evaluation import SegmentationEvaluation, evaluate_scenes
from doublure.tasks.segmentation.scene_unet import build_scene_unet, is_scene_unet
from doublure.tasks.segmentation.scores import agreement, score
from doublure.tasks.segmentation.summary import scored, summarize_scenes

# What a contract says that its networks answer with.
_MAP = "map"
_ENOUGH_IN_COMMON = 0.25
# Images on which networks are compared for the report.
_JUDGED = 64
_WORDS = Words(
    takes="answers every pixel",
    shown="images",
    answered="pixel",
    held_out="pixels of held-out transfer images",
    agreement="give a pixel the same class",
    same="Same class of a pixel",
    judged="scenes with label maps",
    quality="mean IoU",
    unknown="Not scored",
)


@dataclass(frozen=True, kw_only=True)
class SegmentationTask:
    """Task: which class is each pixel? One image in, a map of logits out."""

    name = "segmentation"
    words = _WORDS
    description = ImageDescription
    methods = (
        Method(
            name="auto",
            stages=recipes.auto,
            parts=("inherit",),
            plan=recipes.plan,
            open=True,
            applied=recipes.per_pixel,
        ),
        Method(name="dfad", stages=recipes.dfad, applied=recipes.per_pixel),
        Method(name="shader-kd", stages=recipes.shader_kd, applied=recipes.per_pixel),
        Method(
            name="surrogate-kd",
            stages=recipes.surrogate_kd,
            needs="images",
            applied=recipes.per_pixel,
        ),
    )
    options: frozenset[str] = frozenset()
    verbs = frozenset({"distill", "evaluate", "export", "prune", "quantize", "train"})

    def owns(self, contract: Contract) -> bool:
        return isinstance(contract, InputContract) and contract.output == _MAP

    def describe(
        self, contract: InputContract, architecture: str, plan: tuple[dict[str, Any], ...]
    ) -> ImageDescription:
        return ImageDescription.of(contract, architecture, plan)

    def builds(self, name: str) -> bool:
        return is_scene_unet(name)

    def contract_for(self, said: NetworkRef, like: Contract | None) -> InputContract:
        names = ("size", "channels", "mean", "std", "classes", "names")
        told = {name: value for name in names if (value := getattr(said, name)) is not None}
        if "classes" not in told and "names" in told:
            told["classes"] = len(told["names"])
        if like is not None:
            assert isinstance(like, InputContract)
            return replace(like, **told)
        if "classes" not in told or "size" not in told:
            raise ValueError(
                f"nothing states how many classes {said.ref} has, and the size of its images; say "
                "--classes and --size, or name a run folder"
            )
        channels = told.setdefault("channels", 3)
        told = {"mean": (0.0,) * channels, "std": (1.0,) * channels} | told
        return InputContract(**told, output=_MAP)

    def build(self, name: str, contract: InputContract) -> nn.Module:
        return build_scene_unet(name, classes=contract.classes, channels=contract.channels)

    def check(self, role: str, network: Network) -> list[str]:
        return check_maps(role, network)

    def check_pair(
        self, teacher: InputContract, student: InputContract, *, own_label_space: bool
    ) -> None:
        check_same_maps(teacher, student)

    def owns_data(self, data: str) -> bool:
        return names_scenes(data)

    def open_evaluation_data(
        self, data: str, contract: InputContract, *, skip_bad: bool
    ) -> SceneData:
        return open_scenes(data, contract, split="test", labels=True, skip_bad=skip_bad)

    def transfer(self, named: str, contract: InputContract, *, labels: bool) -> Source:
        folder = Path(named)
        if names_scenes(named) or (folder.is_dir() and not is_begun(folder)):
            return Scenes(data=named, labels=labels)
        return Surrogate(data=named, labels=labels)

    def default_method(self, *, own_label_space: bool) -> str:
        return "auto"

    def facts(self, teacher: Network, student: Network, *, given_weights: bool) -> Facts:
        common = share_in_common(student.body, teacher.body) >= _ENOUGH_IN_COMMON
        return Facts(
            statistics=bool(batchnorm_layers(teacher)),
            inherits=common and not given_weights,
            stages=False,
        )

    def train_recipe(self, inputs: TrainInputs) -> tuple[Recipe, Network]:
        reference, network = inputs.reference, inputs.network
        if network is None:
            found = scene_contract(inputs.data, reference.names, reference.classes)
            said = ("size", "channels", "mean", "std", "classes", "names")
            own = {name: getattr(found, name) for name in said}
            own |= {name: value for name in said if (value := getattr(reference, name)) is not None}
            reference = replace(reference, **own)
            network = inputs.load(reference, like=found, allow_code=inputs.allow_code)
        scenes = open_scenes(
            inputs.data, network.contract, split="train", labels=True, skip_bad=inputs.skip_bad
        )
        return recipes.supervised(reference, inputs.data, scenes), network

    def evaluate(
        self,
        network: nn.Module,
        data: SceneData,
        *,
        batch_size: int = 256,
        device: torch.device | str | None = None,
    ) -> SegmentationEvaluation:
        return evaluate_scenes(network, data, device=device)

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
        return score(pairs)

    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score:
        return agreement(outputs)

    def judging_costs(
        self,
        stage: Stage,
        teacher: Network | None,
        student: Network,
        data: EvaluationData | None,
    ) -> JudgingCosts:
        count = _JUDGED + (0 if data is None else len(data))
        networks = [student] if teacher is None else [student, teacher]
        return JudgingCosts(scoring=count * sum(map(seconds_to_answer, networks)))

    def summarize(self, run: FinishedRun) -> dict[str, Any]:
        return summarize_scenes(run)

    def lines(self, summary: Mapping[str, Any], role: str) -> str:
        return scored(summary, role)
