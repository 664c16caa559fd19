"""The translation task for the engine: networks from tokens to tokens."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from doublure.core.findings import Score
from doublure.core.optional import require
from doublure.core.protocols import Batch, Contract, Source
from doublure.core.words import Words
from doublure.engine.method import Facts, Method
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.task import EvaluationData, FinishedRun, JudgingCosts, TrainInputs
from doublure.nets.features import device_of
from doublure.nets.network import Network, freeze
from doublure.nets.references import NetworkRef, parse
from doublure.tasks.translation.contract import TextContract, TextDescription
from doublure.tasks.translation.evaluation import TranslationEvaluation, evaluate_translator
from doublure.tasks.translation.networks import build_translator, is_translator, text_contract
from doublure.tasks.translation.parallel_text import ParallelText, names_text, open_text
from doublure.tasks.translation.recipes import sequence_kd, supervised_translation
from doublure.tasks.translation.scores import Translation
from doublure.tasks.translation.sentences import Sentences
from doublure.tasks.translation.summary import scored, summarize_translation

_WORDS = Words(
    takes="translates text",
    shown="sentences",
    answered="token",
    held_out="tokens of held-out sentences",
    agreement="go on with the same token",
    same="Same next token",
    judged="sentences with references",
    quality="the quality of its translations",
    unknown="Not scored",
)


@dataclass(frozen=True, kw_only=True)
class TranslationTask:
    """Task: translation."""

    name = "translation"
    words = _WORDS
    description = TextDescription
    methods = (Method(name="sequence-kd", stages=sequence_kd, needs="sentences"),)
    options: frozenset[str] = frozenset()
    verbs = frozenset({"distill", "evaluate", "train"})

    def owns(self, contract: Contract) -> bool:
        return isinstance(contract, TextContract)

    def describe(
        self, contract: TextContract, architecture: str, plan: tuple[dict[str, Any], ...]
    ) -> TextDescription:
        return TextDescription(
            architecture=architecture,
            languages=contract.languages,
            source_pieces=contract.source,
            target_pieces=contract.target,
            longest=contract.longest,
            plan=plan,
        )

    def builds(self, name: str) -> bool:
        return is_translator(name)

    def contract_for(self, said: NetworkRef, like: Contract | None) -> TextContract:
        assert like is None or isinstance(like, TextContract)
        return text_contract(said, like)

    def build(self, name: str, contract: TextContract) -> nn.Module:
        return build_translator(name, len(contract.source), len(contract.target))

    def check(self, role: str, network: Network[TextContract]) -> list[str]:
        contract = network.contract
        with torch.no_grad():
            output = freeze(network)(contract.blank(1, device_of(network)))
        if output.shape != (1, 1, contract.classes):
            raise ValueError(
                f"the {role} answers a token with {output.shape[-1]} numbers, but its vocabulary "
                f"has {contract.classes} pieces"
            )
        return []

    def check_pair(
        self, teacher: TextContract, student: TextContract, *, own_label_space: bool
    ) -> None:
        if teacher != student:
            raise ValueError(
                "student and teacher must share languages and vocabularies; let the student "
                "inherit them by naming an architecture, such as builtin/translator-2"
            )

    def owns_data(self, data: str) -> bool:
        return names_text(data)

    def open_evaluation_data(
        self, data: str, contract: TextContract, *, skip_bad: bool
    ) -> ParallelText:
        require("sacrebleu")  # which is better reported before the training
        return open_text(data, split="test", languages=contract.languages)

    def transfer(self, named: str, contract: TextContract, *, labels: bool) -> Source:
        return Sentences(data=named)

    def default_method(self, *, own_label_space: bool) -> str:
        return "sequence-kd"

    def facts(
        self, teacher: Network[TextContract], student: Network[TextContract], *, given_weights: bool
    ) -> Facts:
        return Facts()

    def train_recipe(self, inputs: TrainInputs) -> tuple[Recipe, Network[Any] | None]:
        reference = inputs.reference
        if inputs.network is None:
            parsed = parse(reference.ref)
            if parsed.kind != "builtin" or not is_translator(parsed.target):
                raise ValueError(
                    f"{reference.ref} is trained on images, and these data are text; use "
                    "builtin/translator-2, or another number of layers"
                )
            reference = replace(reference, vocabulary=inputs.data)
        return supervised_translation(reference, inputs.data), None

    def evaluate(
        self,
        network: Network[TextContract],
        data: ParallelText,
        *,
        batch_size: int = 256,
        device: torch.device | str | None = None,
    ) -> TranslationEvaluation:
        return evaluate_translator(network, data, batch_size=batch_size, device=device)

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
        return Translation().score(pairs)

    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score:
        return Translation().agreement(outputs)

    def judging_costs(
        self,
        stage: Stage,
        teacher: Network[TextContract] | None,
        student: Network[TextContract],
        data: EvaluationData | None,
    ) -> JudgingCosts:
        return JudgingCosts()  # not predicted: the length of sentences is unknown

    def summarize(self, run: FinishedRun) -> dict[str, Any]:
        return summarize_translation(run)

    def lines(self, summary: Mapping[str, Any], role: str) -> str:
        return scored(summary, role)
