"""What the engine knows of a task: its networks, its data and its scores, as one value.

A task is a folder under `tasks/` and a line in their tuple. The engine never names one: it is
handed `Plugins`, and asks the task of a contract, of a builtin network or of data.
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
from doublure.engine.recipe import Recipe
from doublure.engine.run_folder import RunFolder
from doublure.nets.network import Network
from doublure.nets.references import NetworkRef


@runtime_checkable
class EvaluationData(Protocol):
    """Data to score on, opened: images with labels, sentences with references."""

    def __len__(self) -> int: ...
    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should be warned of, one sentence each."""


@runtime_checkable
class Evaluation(Protocol):
    """What a network scored."""

    def to_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints."""

    def lines(self) -> list[str]:
        """Return what `evaluate` prints, a line a score."""

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
        """Return head and rows of what is printed below, None where there is nothing more."""


@runtime_checkable
class Description(Protocol):
    """What student.json says of a network, a dataclass that pydantic can read."""

    @property
    def architecture(self) -> str:
        """The REF that builds it, "" where it was made in Python."""

    @property
    def plan(self) -> tuple[dict[str, Any], ...]:
        """What was done to the architecture, as records."""

    @property
    def contract(self) -> Contract:
        """What the network takes."""


@dataclass(frozen=True, kw_only=True)
class TrainInputs:
    """What a person brings to `train`.

    Args:
        reference: the network to train, with what was said about it.
        network: the same, where it was handed over in Python.
        data: DATA, as typed.
        load: opens a network by reference, as `networks.load`.
        augment: what is done to the inputs, None for what the task does by default.
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
class FinishedRun:
    """A run whose student is on disk, to be summarized.

    Args:
        terms: of the loss, at the end of the last stage.
        last: what the student was shown last; None where this call only found it trained.
        audit: whether the transfer set is scored, too, a search for images followed, and a network
            that was made smaller timed.
    """

    recipe: Recipe
    folder: RunFolder
    teacher: Network[Any] | None
    student: Network[Any]
    evaluation_data: Any
    terms: Mapping[str, Any]
    last: Batch | None = None
    audit: bool = True


@runtime_checkable
class Task(Protocol):
    """One kind of question that networks answer, and all that depends on it."""

    @property
    def name(self) -> str:
        """Its folder's, which student.json and summary.json say."""

    @property
    def words(self) -> Words:
        """Its nouns, for reports and messages."""

    @property
    def description(self) -> type:
        """What student.json says of its networks: a dataclass, see `Description`."""

    @property
    def verbs(self) -> frozenset[str]:
        """The verbs that work with its networks."""

    @property
    def options(self) -> frozenset[str]:
        """Options of `distill` and `train` that mean something here, of those that not all do."""

    @property
    def methods(self) -> tuple[Method, ...]:
        """The recipes of `distill` that are its own, beside those of `doublure.recipes`."""

    # Its networks.
    def owns(self, contract: Contract) -> bool:
        """Whether networks with this contract are its own."""

    def describe(
        self, contract: Any, architecture: str, plan: tuple[dict[str, Any], ...]
    ) -> Description:
        """Return what student.json says of a network."""

    def builds(self, name: str) -> bool:
        """Whether builtin/`name` is a network of its own, beside the ones that take one image."""

    def contract_for(self, said: NetworkRef, like: Contract | None) -> Contract:
        """Return the contract of a new builtin network.

        Args:
            like: that of the network it shall be like, where there is one.

        Raises:
            ValueError: what was said does not make one.
        """

    def build(self, name: str, contract: Any) -> nn.Module:
        """Return builtin/`name`, initialised from torch's global generator."""

    def check(self, role: str, network: Network[Any]) -> list[str]:
        """Raise unless a blank input is answered as agreed; return what is doubtful.

        Args:
            role: "teacher" or "student", for messages.
        """

    def check_pair(self, teacher: Any, student: Any, *, own_label_space: bool) -> None:
        """Raise unless a student of this contract can learn from a teacher of that.

        Args:
            own_label_space: the student has classes of its own.
        """

    # Its data.
    def owns_data(self, data: str) -> bool:
        """Whether DATA is of its own kind, by the text alone: nothing is read."""

    def open_evaluation_data(self, data: str, contract: Any, *, skip_bad: bool) -> EvaluationData:
        """Return the data to score on: of what is divided, the test part."""

    def transfer(self, named: str, contract: Any, *, labels: bool) -> Source:
        """Return what `--transfer` names."""

    # Its recipes.
    def default_method(self, *, own_label_space: bool) -> str:
        """Return the method of `distill` where none is named."""

    def facts(self, teacher: Network[Any], student: Network[Any], *, given_weights: bool) -> Facts:
        """Return what a recipe may depend on.

        Args:
            given_weights: the student's weights are to stay as they are.
        """

    def train_recipe(self, inputs: TrainInputs) -> tuple[Recipe, Network[Any] | None]:
        """Return the recipe of `train`, and the network where it has been built for it."""

    # Its scores.
    def evaluate(
        self,
        network: Any,
        data: Any,
        *,
        batch_size: int = 256,
        device: torch.device | str | None = None,
    ) -> Evaluation:
        """Return how a network does on opened data, in float32; it is left as it was."""

    def score(self, pairs: Iterable[tuple[Any, Batch]]) -> Mapping[str, Score]:
        """Return the scores of (output, batch with labels) pairs."""

    def agreement(self, outputs: Iterable[tuple[Any, Any]]) -> Score:
        """Return the share on which two networks' outputs are the same."""

    def seconds_to_judge(
        self, networks: Sequence[Network[Any]], data: EvaluationData | None
    ) -> float:
        """Return about how long networks take to be compared and scored after a run."""

    def summarize(self, run: FinishedRun) -> dict[str, Any]:
        """Return its part of summary.json; write what else a report needs into the run's folder.

        It holds at least agreement, agreement_count, agreement_on and warnings.
        """

    def lines(self, summary: Mapping[str, Any], role: str) -> str:
        """Return how a network of a summary scored, in a few words for the terminal."""


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


def labels_not_learned(terms: Mapping[str, Any], classes: int) -> list[str]:
    """Return a warning where labels are predicted worse than by guessing."""
    if terms.get("hard_labels", 0.0) <= math.log(classes):
        return []
    return [
        "At the end the loss against the labels was above that of guessing; train longer, "
        "lower --lr, or, without BatchNorm, try --set fit.optimizer=adamw --lr 0.001."
    ]
