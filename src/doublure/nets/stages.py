"""Stages: where a network's image shrinks, its last feature vector, and its classifier.

An example runs through a frozen copy; the network does not change. Calls are nested, so the copy's
calls form a tree. From the root down, a call is expanded if it contains maps of more than two sizes
(or contains maps but returns none); the remaining calls, in their order, are the trunk: stems,
blocks and stages, never the inside of a block. A stage ends at the last call of the trunk before
the maps shrink. Pooling (no parameters, a smaller map) does not end a stage.

The activation of a stage is the one that produced its output, or else the first that consumes it:
in a pre-activation network, x + conv(relu(bn(x))), the relu(bn) of the next block. Linear
bottlenecks and tokens have none; the values before and after it are then the output itself.

If maps shrink less than twice (vision transformers, ConvMixers), stages are the thirds of the
longest run of blocks. Tokens (batch, tokens, width) are read as maps, without the class tokens
before the grid of patches. Maps must be channels first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from doublure.nets.activations import (
    ActivationRecorder,
    Step,
    Values,
    find_activation,
    values_of,
)
from doublure.nets.features import INPUT, FeatureRecorder, architecture
from doublure.nets.network import freeze

# Number of stages for a network without any: that of most small residual networks.
_PARTS = 3
# This many images are enough: a frozen network processes each independently.
_WATCHED = 4


@dataclass(frozen=True, kw_only=True)
class Activation:
    """The activation of a stage, and the taps on its two sides.

    Args:
        entering: tap of its input; None if there is none.
        leaving: tap of its output; None if there is none.
        function: the function; None if it has weights.
    """

    entering: str | None
    leaving: str | None
    function: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer to tap, and how its output is read as a map.

    Args:
        name: name for `FeatureRecorder`.
        shape: channels, height, width of one image's map; height and width 1 for a vector.
        depth: share of the layers with weights up to here, in (0, 1].
        tokens: whether its output is tokens.
        activation: activation of the stage that it ends, or None.
        applied: function from the tapped value to the value after the activation.
    """

    name: str
    shape: tuple[int, int, int]
    depth: float
    tokens: bool = False
    activation: Activation | None = None
    applied: Callable[[Tensor], Tensor] | None = None

    def before_activation(self) -> "Layer":
        """Return the layer at the input of the stage's activation; itself without such a tap."""
        if self.activation is None or self.activation.entering is None:
            return self
        return replace(self, name=self.activation.entering, applied=None)

    def after_activation(self) -> "Layer":
        """Return the layer at the output of the stage's activation; itself without one."""
        if self.activation is None:
            return self
        if self.activation.leaving is not None:
            return replace(self, name=self.activation.leaving, applied=None)
        assert self.activation.entering is not None
        return replace(self, name=self.activation.entering, applied=self.activation.function)

    def as_map(self, tapped: Tensor) -> Tensor:
        """Return the tapped value as batch x channels x height x width."""
        if self.applied is not None:
            tapped = self.applied(tapped)
        channels, height, width = self.shape
        if not self.tokens:
            return tapped.reshape(len(tapped), channels, height, width)
        patches = tapped[:, tapped.shape[1] - height * width :]
        return patches.transpose(1, 2).reshape(len(tapped), channels, height, width)

    def as_vector(self, tapped: Tensor) -> Tensor:
        """Return the tapped value as batch x channels: the mean over a map."""
        return self.as_map(tapped).mean((2, 3))


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The layers of a network that objectives can compare.

    Args:
        ends: last layers of the stages, in order; their outputs are before or after the activation.
        features: the vector that enters the classifier.
        classifier: name of the last linear layer; None if there is none.
    """

    ends: tuple[Layer, ...]
    features: Layer
    classifier: str | None


def find_stages(network: nn.Module, images: Any) -> Stages:
    """Return the stages of a network; `images` is an example input.

    Raises:
        ValueError: none of its layers returns a map or tokens.
    """
    recorded = _record(network, images)
    ends = _ends(recorded)
    if not ends:
        raise ValueError(
            f"{type(architecture(network)).__name__} has no layer that returns a map or tokens; "
            f"name the layers to compare, or use an objective on the logits"
        )
    classifier = recorded.classifier()
    if classifier is None:
        return Stages(ends=ends, features=ends[-1], classifier=None)
    width = classifier.given.shape[1] if classifier.given is not None else 0
    features = Layer(name=classifier.name + INPUT, shape=(width, 1, 1), depth=1.0)
    return Stages(ends=ends, features=features, classifier=classifier.name)


def find_layers(network: nn.Module, images: Any, names: Sequence[str]) -> tuple[Layer, ...]:
    """Return the layers of these names.

    Raises:
        ValueError: a name is not a layer, or its output is neither vector, tokens nor map.
    """
    recorded = _record(network, images)
    with FeatureRecorder(freeze(network), names) as recorder, torch.no_grad():
        tapped = recorder.record(images).features
    found = []
    for name in names:
        layer = recorded.layer(name, tapped[name])
        if layer is None:
            raise ValueError(
                f"the output of the layer '{name}' has shape {tuple(tapped[name].shape)}; features "
                f"are "
                "batch x channels, batch x tokens x channels or batch x channels x height x width"
            )
        found.append(layer)
    return tuple(found)


@dataclass
class _Call:
    """One call of a layer.

    Args:
        entering, leaving: its input and output values.
        weights: number of layers with weights called up to its end.
    """

    name: str
    module: nn.Module
    given: Tensor | None
    answer: Tensor | None = None
    entering: Values | None = None
    leaving: Values | None = None
    inner: list["_Call"] = field(default_factory=list)
    weights: int = 0

    @property
    def area(self) -> int:
        return _area(self.answer)

    def below(self) -> Iterator["_Call"]:
        for call in self.inner:
            yield call
            yield from call.below()


@dataclass(frozen=True)
class _Recorded:
    root: _Call
    answer: Any
    steps: tuple[Step, ...]

    def calls(self) -> Iterator[_Call]:
        return self.root.below()

    def classifier(self) -> _Call | None:
        shape = self.answer.shape if isinstance(self.answer, Tensor) else None
        linear = [
            call
            for call in self.calls()
            if isinstance(call.module, nn.Linear)
            and call.answer is not None
            and call.answer.dim() == 2
            and call.answer.shape == shape
        ]
        return linear[-1] if linear else None

    def activation(self, call: _Call) -> Activation | None:
        """Return the activation of the stage that a call ends, if a tap can record its output."""
        step = None if call.leaving is None else find_activation(self.steps, call.leaving)
        if step is None:
            return None
        # For a layer called several times, a tap records the last call.
        calls = (call, *{each.name: each for each in self.calls()}.values())
        answers = {each.leaving: each.name for each in reversed(calls)}
        inputs = {each.entering: each.name + INPUT for each in reversed(calls)}
        entering = answers.get(step.entering, inputs.get(step.entering))
        leaving = answers.get(step.leaving)
        if leaving is None and (entering is None or step.function is None):
            return None
        return Activation(entering=entering, leaving=leaving, function=step.function)

    def layer(
        self, name: str, tapped: Tensor, activation: Activation | None = None
    ) -> Layer | None:
        shape = tuple(tapped.shape[1:])
        path = name.removesuffix(INPUT)
        passed = [call.weights for call in self.calls() if call.name == path]
        depth = (passed[-1] if passed else self.root.weights) / max(1, self.root.weights)
        told: dict[str, Any] = {"name": name, "depth": depth, "activation": activation}
        if len(shape) == 1:
            return Layer(shape=(shape[0], 1, 1), **told)
        if len(shape) == 2:
            return Layer(shape=(shape[1], *self._grid(shape[0])), tokens=True, **told)
        return Layer(shape=(shape[0], shape[1], shape[2]), **told) if len(shape) == 3 else None

    def _grid(self, tokens: int) -> tuple[int, int]:
        """Return the grid of tokens: the last map with at most as many positions as tokens."""
        maps = [c.answer.shape[2:] for c in self.calls() if c.answer is not None and c.area > 1]
        fitting = [shape for shape in maps if shape[0] * shape[1] <= tokens]
        return (fitting[-1][0], fitting[-1][1]) if fitting else (tokens, 1)


def _record(network: nn.Module, images: Any) -> _Recorded:
    copy = freeze(network)
    body = architecture(copy)
    root = _Call("", body, None)
    open_calls, passed = [root], [0]
    if isinstance(images, Tensor):
        images = images[:_WATCHED]

    def begin(name: str, module: nn.Module, given: Any) -> None:
        first = given[0] if given and isinstance(given[0], Tensor) else None
        call = _Call(name, module, first, entering=values_of(first))
        open_calls[-1].inner.append(call)
        open_calls.append(call)

    def end(module: nn.Module, answer: Any) -> None:
        call = open_calls.pop()
        call.answer = answer if isinstance(answer, Tensor) else None
        call.leaving = values_of(answer)
        weight = getattr(module, "weight", None)
        passed[0] += int(isinstance(weight, Tensor) and weight.dim() > 1)
        call.weights = root.weights = passed[0]

    for name, module in body.named_modules():
        if name:
            module.register_forward_pre_hook(lambda m, given, name=name: begin(name, m, given))
            module.register_forward_hook(lambda m, _given, answer: end(m, answer))
    with torch.no_grad(), ActivationRecorder() as recorder:
        answer = copy(images)
    return _Recorded(root, answer, tuple(recorder.steps))


def _ends(recorded: _Recorded) -> tuple[Layer, ...]:
    last: dict[int, _Call] = {}
    for call in _trunk(recorded.root):
        # A map that grows again belongs to a decoder, which has no stages.
        if call.area and not _pools(call) and call.area <= min(last, default=call.area):
            last[call.area] = call
    ends = list(last.values())
    if len(ends) < 2:
        ends = _thirds(recorded) or ends
    found = (
        recorded.layer(call.name, call.answer, recorded.activation(call))
        for call in ends
        if call.answer is not None
    )
    return tuple(layer for layer in found if layer is not None)


def _trunk(call: _Call) -> Iterator[_Call]:
    for inner in call.inner:
        hides = inner.area == 0 and any(part.area for part in inner.below())
        if hides or len(_areas(inner)) > 2:
            yield from _trunk(inner)
        else:
            yield inner


def _areas(call: _Call) -> set[int]:
    """Return the sizes of the maps in a call; smaller ones in between are gates."""
    inside = {part.area for part in call.below()} | {_area(call.given), call.area}
    return {area for area in inside if area >= max(1, call.area)}


def _pools(call: _Call) -> bool:
    return call.area < _area(call.given) and not any(True for _ in call.module.parameters())


def _thirds(recorded: _Recorded) -> list[_Call]:
    """Return the ends of the thirds of the longest run of blocks of one shape."""
    best: list[_Call] = []
    for call in (recorded.root, *recorded.calls()):
        runs: dict[Any, list[_Call]] = {}
        for inner in call.inner:
            if inner.inner and inner.answer is not None and inner.answer.dim() in (3, 4):
                runs.setdefault(inner.answer.shape, []).append(inner)
        best = max([best, *runs.values()], key=len)
    if len(best) < _PARTS:
        return best
    return [best[round(len(best) * part / _PARTS) - 1] for part in range(1, _PARTS + 1)]


def _area(value: Tensor | None) -> int:
    """Return the number of positions of a map; 0 for other values."""
    return value.shape[2] * value.shape[3] if value is not None and value.dim() == 4 else 0
