"""Groups of channels that can only be removed together, from one trace of the network.

Every channel of every tensor gets a label; an addition of two tensors merges their labels. So all
layers that write to a residual stream form one group per channel, also through a zero-padding
shortcut, and a depthwise convolution belongs to the group of its input. Labels that reach the
image, the logits or a grouped convolution are fixed. So are those at operations that are not
followed, which split, shuffle or reshape channels: these must keep all of them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from doublure.nets.network import Network, freeze
from doublure.nets.pruned import Kept
from doublure.nets.resnet import ZeroPadShortcut

# A tensor's labels: one integer a channel, along dimension 1.
Labels = Tensor

_SAME = {
    *("relu", "relu_", "relu6", "relu6_", "leaky_relu", "leaky_relu_", "elu", "elu_", "gelu"),
    *("silu", "silu_", "mish", "mish_", "hardswish", "hardswish_", "hardtanh", "hardtanh_"),
    *("sigmoid", "hardsigmoid", "tanh", "dropout", "dropout_", "feature_dropout", "contiguous"),
    *("clone", "detach", "alias", "to", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    *("adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d"),
}
_TOGETHER = {"add", "add_", "sub", "sub_", "mul", "mul_"}
# Operations whose output at a channel depends on the number of channels.
_AMONG_ALL = {"softmax", "log_softmax"}
_TO_ROWS = {"flatten", "view", "reshape", "_unsafe_view", "squeeze"}


# Errors of a trace whose values control the computation, or whose shapes do not fit.
_UNTRACEABLE = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError)


class UntraceableError(ValueError):
    """A network that torch cannot trace; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A place to switch off a channel: one channel of a layer's output.

    Args:
        behind_batchnorm: whether the layer is a BatchNorm.
    """

    layer: str
    channel: int
    behind_batchnorm: bool


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The channel groups of a network.

    Args:
        layers: labels of inputs and outputs by layer; for a padding, labels before and after.
        gates: by label, all places to switch off so that the channel has no effect.
        filters: by label, the number of filters that write it.
        fixed: labels that cannot be removed.
        held: by operation that is not followed, the number of filters that it fixes.
    """

    layers: dict[str, tuple[Labels, Labels]]
    gates: dict[int, tuple[Gate, ...]]
    filters: dict[int, int]
    fixed: frozenset[int]
    held: dict[str, int] = field(default_factory=dict)

    @property
    def prunable(self) -> tuple[int, ...]:
        """The removable labels, in order."""
        return tuple(sorted(set(self.filters) & set(self.gates) - self.fixed))

    @property
    def holds(self) -> str:
        """The number of filters fixed by unfollowed operations, and where; "" for none."""
        if not self.held:
            return ""
        *others, first = sorted(self.held, key=lambda place: self.held[place])
        more = f" and {len(others)} other place{'s' * (len(others) > 1)}" if others else ""
        count = sum(self.held.values())
        whole = sum(self.filters.values())
        return f"{count:,} of {whole:,} filters stay: they meet {first}{more}"

    def without(self, removed: Sequence[int]) -> dict[str, Kept]:
        """Return the channels that each changed layer keeps without these labels."""
        gone = torch.tensor(sorted(removed), dtype=torch.int64)
        kept = {
            name: tuple((~torch.isin(labels, gone)).nonzero()[:, 0] for labels in pair)
            for name, pair in self.layers.items()
        }
        return {
            name: (inputs, outputs)
            for name, (inputs, outputs) in kept.items()
            if [len(inputs), len(outputs)] != [len(labels) for labels in self.layers[name]]
        }


def trace_channels(network: Network) -> Channels:
    """Return the groups of channels of a network.

    Raises:
        UntraceableError: torch cannot trace it.
    """
    contract = network.contract
    body = freeze(network.body).to("cpu", torch.float32)
    images = torch.zeros(2, contract.channels, *contract.size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its warnings concern deployment of the trace
            program = torch.export.export(body, (images,), strict=False)
    except _UNTRACEABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UntraceableError(
            f"cannot prune {type(body).__name__}: torch cannot trace it ({reason})"
        ) from error
    walk = _Walk(body, program)
    for node in program.graph.nodes:
        walk.visit(node)
    return walk.channels()


@dataclass
class _Walk:
    """One pass through the graph, label by label."""

    body: nn.Module
    program: torch.export.ExportedProgram
    labels: dict[fx.Node, Tensor] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)
    layers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    places: list[tuple[int, Gate]] = field(default_factory=list)
    writers: list[Tensor] = field(default_factory=list)
    fixed: list[int] = field(default_factory=list)
    unfollowed: dict[str, list[int]] = field(default_factory=dict)

    def visit(self, node: fx.Node) -> None:
        """Label the output of a node."""
        if node.op == "placeholder":
            if node.name in self.program.graph_signature.user_inputs:
                self.labels[node] = self.fresh(_shape(node)[1], fixed=True)
        elif node.op == "output":
            for answer in node.all_input_nodes:
                self.fix(self.labels.get(answer))
        elif node.op == "call_function":
            self.call(node)

    def call(self, node: fx.Node) -> None:
        name = getattr(node.target, "_opname", str(node.target))
        arguments: tuple[Any, ...] = node.args
        read = [part for part in node.all_input_nodes if part in self.labels]
        if not read:
            return
        x = self.labels[read[0]]
        if not isinstance(read[0].meta["val"], Tensor):  # one of several outputs
            self.hold(node, f"'{name}'")
        elif name == "conv2d":
            self.convolve(node, x)
        elif name == "linear":
            self.project(node, x)
        elif name == "batch_norm":
            self.normalise(node, x)
        elif name in _TOGETHER:
            self.join(node, read)
        elif name == "pad":
            self.pad(node, x)
        elif name == "cat" and (*arguments, 0)[1] == 1 and set(arguments[0]) <= set(read):
            self.labels[node] = torch.cat([self.labels[part] for part in arguments[0]])
        elif name in _TO_ROWS:
            self.to_rows(node, read[0])
        elif name in _AMONG_ALL:
            self.fix(x)
            self.labels[node] = x
        elif name in _SAME or _within_channels(name, arguments, node, read[0]):
            self.labels[node] = x
        else:
            self.hold(node, f"'{name}'")

    def convolve(self, node: fx.Node, x: Tensor) -> None:
        layer, name = self.owner(node, 1)
        if not isinstance(layer, nn.Conv2d):
            self.hold(node, "weights outside of a layer")
            return
        depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
        if depthwise:
            outputs = x
        else:
            outputs = self.fresh(layer.out_channels, fixed=layer.groups > 1)
            self.writers += [] if name in self.layers else [outputs]
        if layer.groups > 1 and not depthwise:
            self.fix(x)
        self.record(name, x, outputs)
        users = [getattr(user.target, "_opname", "") for user in node.users]
        if users != ["batch_norm"]:
            self.gate(name, outputs, behind_batchnorm=False)
        self.labels[node] = outputs

    def project(self, node: fx.Node, x: Tensor) -> None:
        layer, name = self.owner(node, 1)
        if not isinstance(layer, nn.Linear) or len(_shape(node)) != 2:
            self.hold(node, "a linear layer on something else than rows")
            return
        outputs = self.fresh(_shape(node)[1], fixed=True)
        self.record(name, x, outputs)
        self.labels[node] = outputs

    def normalise(self, node: fx.Node, x: Tensor) -> None:
        layer, name = self.owner(node, 3)
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            self.hold(node, "a BatchNorm without statistics")
            return
        self.record(name, x, x)
        self.gate(name, x, behind_batchnorm=True)
        self.labels[node] = x

    def join(self, node: fx.Node, read: Sequence[fx.Node]) -> None:
        others = [part for part in node.args if part not in read]
        shift = getattr(node.target, "_opname", "")[:3] in ("add", "sub")
        if any(isinstance(part, fx.Node) for part in others):
            self.hold(node, "weights outside of a layer")
        elif shift and others:
            self.hold(node, "a number added to every channel")
        elif len({len(self.labels[part]) for part in read}) > 1:
            self.hold(node, "tensors of different numbers of channels")
        else:
            first = self.labels[read[0]]
            for other in read[1:]:
                for one, two in zip(first.tolist(), self.labels[other].tolist(), strict=True):
                    self.parents[self.find(one)] = self.find(two)
            self.labels[node] = first

    def pad(self, node: fx.Node, x: Tensor) -> None:
        amounts: Any = node.args[1]
        if not any(amounts[4:]):
            self.labels[node] = x
            return
        path = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())[-1][0]
        if not isinstance(self.body.get_submodule(path), ZeroPadShortcut):
            self.hold(node, "channels padded outside of a ZeroPadShortcut")
            return
        before, after = (self.fresh(amount) for amount in amounts[4:6])
        self.record(path, before, after)
        self.labels[node] = torch.cat((before, x, after))

    def to_rows(self, node: fx.Node, read: fx.Node) -> None:
        was, now = _shape(read), _shape(node)
        channels = len(self.labels[read])
        if now == was:
            self.labels[node] = self.labels[read]
        elif len(now) == 2 and now[0] == was[0] and now[1] % channels == 0:
            self.labels[node] = self.labels[read].repeat_interleave(now[1] // channels)
        else:
            self.hold(node, "channels that are laid out anew")

    def hold(self, node: fx.Node, what: str) -> None:
        """Fix the labels of a node's inputs, and give its output new, fixed labels."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        where = f" in '{stack[-1][0]}'" if stack and stack[-1][0] else ""
        read = [self.labels[part] for part in node.all_input_nodes if part in self.labels]
        self.stay(f"{what}{where}", *read)
        # Several outputs are distinguished where each is unpacked.
        value = node.meta["val"]
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        self.labels[node] = self.fresh(shape[1] if len(shape) > 1 else 0, fixed=True)

    def owner(self, node: fx.Node, place: int) -> tuple[nn.Module | None, str]:
        """Return the layer of the parameter or buffer at `place` of a call, if any."""
        held = node.args[place] if len(node.args) > place else None
        signature = self.program.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        name = names.get(getattr(held, "name", ""), "").rpartition(".")[0]
        return (self.body.get_submodule(name) if name else None), name

    def record(self, name: str, inputs: Tensor, outputs: Tensor) -> None:
        """Record the labels of a layer's inputs and outputs; called twice, it keeps all."""
        if name in self.layers:
            place = f"'{name}', which is called more than once"
            self.stay(place, *self.layers[name], inputs, outputs)
        self.layers[name] = inputs, outputs

    def stay(self, place: str, *some: Tensor) -> None:
        """Fix labels, with the operation as the reason."""
        for labels in some:
            self.fix(labels)
            self.unfollowed.setdefault(place, []).extend(labels.tolist())

    def gate(self, name: str, labels: Tensor, *, behind_batchnorm: bool) -> None:
        for channel, label in enumerate(labels.tolist()):
            gate = Gate(layer=name, channel=channel, behind_batchnorm=behind_batchnorm)
            self.places.append((label, gate))

    def fresh(self, count: int, *, fixed: bool = False) -> Tensor:
        start = len(self.parents)
        made = torch.arange(start, start + count)
        self.parents += made.tolist()
        if fixed:
            self.fix(made)
        return made

    def fix(self, labels: Tensor | None) -> None:
        self.fixed += [] if labels is None else labels.tolist()

    def find(self, label: int) -> int:
        while self.parents[label] != label:
            self.parents[label] = self.parents[self.parents[label]]
            label = self.parents[label]
        return label

    def channels(self) -> Channels:
        roots = torch.tensor([self.find(label) for label in range(len(self.parents))])
        gates: dict[int, list[Gate]] = {}
        for label, gate in self.places:
            gates.setdefault(int(roots[label]), []).append(gate)
        filters: dict[int, int] = {}
        for label in torch.cat(self.writers).tolist() if self.writers else []:
            filters[int(roots[label])] = filters.get(int(roots[label]), 0) + 1
        fixed = frozenset(int(roots[label]) for label in self.fixed)
        held: dict[str, int] = {}
        told: set[int] = set()
        for place, labels in self.unfollowed.items():
            stays = {int(roots[label]) for label in labels} & filters.keys()
            # A group that meets several such operations names the first.
            if count := sum(filters[label] for label in stays - told):
                held[place] = count
            told |= stays
        return Channels(
            layers={n: (roots[one], roots[two]) for n, (one, two) in self.layers.items()},
            gates={label: tuple(places) for label, places in gates.items()},
            filters=filters,
            fixed=fixed,
            held=held,
        )


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _within_channels(name: str, arguments: tuple[Any, ...], node: fx.Node, read: fx.Node) -> bool:
    """Return whether a slice, reduction or division keeps the dimensions of batch and channel."""
    dimensions = len(_shape(read))
    if name in ("div", "div_"):
        return node.all_input_nodes == [arguments[0]]
    if name == "slice":  # some versions of torch also record slices of the whole dimension
        return arguments[1] % dimensions > 1 or _shape(node) == _shape(read)
    return name in ("mean", "sum", "amax") and all(d % dimensions > 1 for d in arguments[1])
