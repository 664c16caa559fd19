"""The classification task for the engine: networks from one image to logits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from doublure.core.findings import Score
from doublure.core.protocols import Batch, Contract, InputContract, Source
from doublure.core.words import Words
from doublure.data.datasets import Dataset, open_data
from doublure.data.natural import natural_contract
from doublure.data.student_file import ImageDescription
from doublure.engine.method import Facts, Method
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.task import EvaluationData, FinishedRun, JudgingCosts, TrainInputs
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.auto import network_facts
from doublure.tasks.classification.checks import check_logits, check_same_classes
from doublure.tasks.classification.evaluation import Evaluation, evaluate
from doublure.tasks.classification.judging import judging_costs
from doublure.tasks.classification.recipes import supervised
from doublure.tasks.classification.scores import Classification
from doublure.tasks.classification.summary import scored, summarize_images

_WORDS = Words(
    takes="takes images",
    shown="images",
    answered="image",
    held_out="held-out transfer images",
    agreement="name the same class",
    same="Same top class",
    judged="labelled images",
    quality="accuracy",
    unknown="Accuracy unknown",
    pictured=True,
)


@dataclass(frozen=True, kw_only=True)
class ClassificationTask:
    """Task: classification, from one image to one logit per class."""

    name = "classification"
    words = _WORDS
    description = ImageDescription
    methods: tuple[Method, ...] = ()  # all of them are in `doublure.recipes`
    options = frozenset(
        {
            "augment",
            "batch_norm",
            "few",
            "interleave",
            "interleave_filters",
            "labels",
            "student_classes",
        }
    )
    verbs = frozenset(
        {
            "audit_saliency",
            "continual",
            "distill",
            "evaluate",
            "export",
            "inspect",
            "prune",
            "quantize",
            "score",
            "shrink",
            "synthesize",
            "train",
        }
    )

    def owns(self, contract: Contract) -> bool:
        return isinstance(contract, InputContract) and contract.output == "classes"

    def describe(
        self, contract: InputContract, architecture: str, plan: tuple[dict[str, Any], ...]
    ) -> ImageDescription:
        return ImageDescription.of(contract, architecture, plan)

    def builds(self, name: str) -> bool:
        return False  # those of `nets.builtin` are for all tasks with one image as input

    def contract_for(self, said: NetworkRef, like: Contract | None) -> InputContract:
        raise AssertionError(f"{said.ref} is not a network of this task")

    def build(self, name: str, contract: InputContract) -> nn.Module:
        raise AssertionError(f"{name} is not a network of this task")

    def check(self, role: str, network: Network) -> list[str]:
        return check_logits(role, network)

    def check_pair(
        self, teacher: InputContract, student: InputContract, *, own_label_space: bool
    ) -> None:
        check_same_classes(teacher, student, own_label_space=own_label_space)

    def owns_data(self, data: str) -> bool:
        return False  # DATA are images by default

    def open_evaluation_data(
        self, data: str, contract: InputContract, *, skip_bad: bool
    ) -> Dataset:
        return open_data(data, contract, split="test", labels=True, skip_bad=skip_bad)

    def transfer(self, named: str, contract: InputContract, *, labels: bool) -> Source:
        return Surrogate(data=named, labels=labels)

    def default_method(self, *, own_label_space: bool) -> str:
        # Labels of classes unknown to the teacher are learned from unbalanced images.
        return "shader-kd" if own_label_space else "auto"

    def facts(self, teacher: Network, student: Network, *, given_weights: bool) -> Facts:
        return network_facts(teacher, student, given_weights=given_weights)

    def train_recipe(self, inputs: TrainInputs) -> tuple[Recipe, Network]:
        reference, network = inputs.reference, inputs.network
        if network is None:
            # The data complete the contract of network and weights.
            like = natural_contract(inputs.data, skip_bad=inputs.skip_bad)
            network = inputs.load(reference, like=like, allow_code=inputs.allow_code)
            said = ("size", "channels", "mean", "std", "classes", "names")
            values = {name: getattr(network.contract, name) for name in said}
            reference = replace(reference, **values)
        augment = inputs.augment or "mild"
        return supervised(reference, inputs.data, network.contract, augment=augment), network

    def evaluate(
        self,
        network: nn.Module,
        data: Dataset,
        *,
        batch_size: int = 256,
        device: torch.device | str | None = None,
    ) -> Evaluation:
        return evaluate(network, data, batch_size=batch_size, device=device)

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
        return Classification().score(pairs)

    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score:
        return Classification().agreement(outputs)

    def judging_costs(
        self,
        stage: Stage,
        teacher: Network | None,
        student: Network,
        data: EvaluationData | None,
    ) -> JudgingCosts:
        return judging_costs(stage, teacher, student, 0 if data is None else len(data))

    def summarize(self, run: FinishedRun) -> dict[str, Any]:
        return summarize_images(run)

    def lines(self, summary: Mapping[str, Any], role: str) -> str:
        return scored(summary, role)
