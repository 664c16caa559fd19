"""The protocol of a task for the engine: its networks, data and scores.

A task is a folder under `tasks/` and a line in their tuple. The engine never names one: it gets
`Plugins`, and finds the task of a contract, of a builtin network or of data.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from doublure.core.findings import Score
from doublure.core.protocols import Batch, Contract, Source
from doublure.core.words import Words
from doublure.engine.method import Facts, Method
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.run_folder import RunFolder
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef


@runtime_checkable
class EvaluationData(Protocol):
    """Open evaluation data: images with labels, sentences with references."""

    def __len__(self) -> int: ...
    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings for the user, one sentence each."""


@runtime_checkable
class Evaluation(Protocol):
    """The scores of a network."""

    def to_json(self) -> dict[str, Any]:
        """Return the output of `evaluate --json`."""

    def lines(self) -> list[str]:
        """Return the output of `evaluate`, one line per score."""

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
        """Return head and rows of a table below the scores, or None."""


@runtime_checkable
class Description(Protocol):
    """The description of a network in student.json, a dataclass for pydantic."""

    @property
    def architecture(self) -> str:
        """The REF that builds it, "" if it was built in Python."""

    @property
    def plan(self) -> tuple[dict[str, Any], ...]:
        """Records of changes to the architecture."""

    @property
    def contract(self) -> Contract:
        """The network's contract."""


@dataclass(frozen=True, kw_only=True)
class TrainInputs:
    """Inputs of `train`.

    Args:
        reference: reference of the network to train.
        network: the network itself, if it was passed in Python.
        data: DATA, as typed.
        load: loads a network by reference, like `networks.load`.
        augment: augmentation of the inputs, None for the task's default.
        allow_code: files whose code may run.
    """

    reference: NetworkRef
    network: Network[Any] | None
    data: str
    load: Callable[..., Network[Any]]
    augment: str | None = None
    allow_code: Sequence[str | Path] = ()
    skip_bad: bool = False


@dataclass(frozen=True, kw_only=True)
class JudgingCosts:
    """About what follows the training of a run, in seconds.

    Args:
        scoring: of the networks on data with labels.
        comparing: of student and teacher, of one image each or what else they answer.
        compared: how many of those are wanted.
        audit: of the audit, see `FinishedRun.audit`.
    """

    scoring: float = 0.0
    comparing: float = 0.0
    compared: int = 0
    audit: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run, for its summary.

    Args:
        terms: loss terms at the end of the last stage.
        last: the last batch; None if the student was already trained before this call.
        audit: whether to audit the transfer set, record the path of an image optimisation, and time
            a smaller network.
        compared: largest number of images for the agreement; None for the task's own.
        began: start of the run, by `time.perf_counter`.
        trained: end of its training.
    """

    recipe: Recipe
    folder: RunFolder
    teacher: Network[Any] | None
    student: Network[Any]
    evaluation_data: Any
    terms: Mapping[str, Any]
    last: Batch | None = None
    audit: bool = True
    compared: int | None = None
    began: float = 0.0
    trained: float = 0.0


@runtime_checkable
class Task(Protocol):
    """A task: its networks, data, scores and recipes."""

    @property
    def name(self) -> str:
        """Name of its folder, also in student.json and summary.json."""

    @property
    def words(self) -> Words:
        """Its nouns, for reports and messages."""

    @property
    def description(self) -> type:
        """The dataclass of its networks' description in student.json, see `Description`."""

    @property
    def verbs(self) -> frozenset[str]:
        """The verbs that support its networks."""

    @property
    def options(self) -> frozenset[str]:
        """Optional options of `distill` and `train` that this task supports."""

    @property
    def methods(self) -> tuple[Method, ...]:
        """Its own recipes for `distill`, in addition to those of `doublure.recipes`."""

    # Its networks.
    def owns(self, contract: Contract) -> bool:
        """Return whether networks with this contract belong to the task."""

    def describe(
        self, contract: Any, architecture: str, plan: tuple[dict[str, Any], ...]
    ) -> Description:
        """Return the description of a network for student.json."""

    def builds(self, name: str) -> bool:
        """Return whether builtin/`name` is one of its own networks."""

    def contract_for(self, said: NetworkRef, like: Contract | None) -> Contract:
        """Return the contract of a new builtin network.

        Args:
            like: contract to inherit from, if there is one.

        Raises:
            ValueError: the statements are incomplete or contradictory.
        """

    def build(self, name: str, contract: Any) -> nn.Module:
        """Return builtin/`name`, initialised from torch's global generator."""

    def check(self, role: str, network: Network[Any]) -> list[str]:
        """Raise unless the output for a blank input has the right form; return doubts.

        Args:
            role: "teacher" or "student", for messages.
        """

    def check_pair(self, teacher: Any, student: Any, *, own_label_space: bool) -> None:
        """Raise unless a student with this contract can learn from such a teacher.

        Args:
            own_label_space: whether the student has its own classes.
        """

    # Its data.
    def owns_data(self, data: str) -> bool:
        """Return whether DATA is of the task's kind, from the text only: nothing is read."""

    def open_evaluation_data(self, data: str, contract: Any, *, skip_bad: bool) -> EvaluationData:
        """Return the evaluation data: the test part, if the data have parts."""

    def transfer(self, named: str, contract: Any, *, labels: bool) -> Source:
        """Return the source for `--transfer`."""

    # Its recipes.
    def default_method(self, *, own_label_space: bool) -> str:
        """Return the default method of `distill`."""

    def facts(self, teacher: Network[Any], student: Network[Any], *, given_weights: bool) -> Facts:
        """Return the facts on which a recipe may depend.

        Args:
            given_weights: whether the student keeps its weights.
        """

    def train_recipe(self, inputs: TrainInputs) -> tuple[Recipe, Network[Any] | None]:
        """Return the recipe of `train`, and the network if it has been built."""

    # Its scores.
    def evaluate(
        self,
        network: Any,
        data: Any,
        *,
        batch_size: int = 256,
        device: torch.device | str | None = None,
    ) -> Evaluation:
        """Return the evaluation of a network on open data, in float32; its state is unchanged."""

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
        """Return the scores of pairs (output, batch with labels)."""

    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score:
        """Return the share of equal outputs of two networks."""

    def judging_costs(
        self,
        stage: Stage,
        teacher: Network[Any] | None,
        student: Network[Any],
        data: EvaluationData | None,
    ) -> JudgingCosts:
        """Return the approximate costs of evaluation and audit after a run with this last stage."""

    def summarize(self, run: FinishedRun) -> dict[str, Any]:
        """Return its part of summary.json; write other data for the report into the run's folder.

        It holds at least agreement, agreement_count, agreement_on and warnings.
        """

    def lines(self, summary: Mapping[str, Any], role: str) -> str:
        """Return the scores of a network of a summary, in a few words for the terminal."""


@runtime_checkable
class VerbResult(Protocol):
    """What a verb of a task returns."""

    def to_json(self) -> Any:
        """Return what the verb prints with --json."""

    def lines(self) -> list[str]:
        """Return what it prints without, a line each."""


@runtime_checkable
class OwnVerbs(Protocol):
    """A task with verbs of its own: the command has them as `doublure TASK VERB`."""

    @property
    def name(self) -> str:
        """The task's name."""

    @property
    def own_verbs(self) -> Mapping[str, Callable[..., VerbResult]]:
        """Functions by the name of the verb, each at the top of a module.

        The first line of a docstring is the verb's help, its Args are those of the options. Types
        of parameters are str, int, float, bool, Path, a sequence of str, a mapping of str to str,
        or one of them or None. `say` and `watch` are given by the command, which shows progress.
        """


def unlearned_labels_warning(terms: Mapping[str, Any], classes: int) -> list[str]:
    """Return a warning if labels are predicted worse than by guessing."""
    if terms.get("hard_labels", 0.0) <= math.log(classes):
        return []
    return [
        "At the end the loss against the labels was above that of guessing; train longer, "
        "lower --lr, or, without BatchNorm, try --set fit.optimizer=adamw --lr 0.001."
    ]
