"""Networks with one image as input: architecture, weights and input contract.

Each value of the contract comes from the first place that states it: the options of the reference,
the configuration of its own weights, the network that it is `like` (a student inherits from its
teacher), the shapes of the weights. Normalisation is never guessed: if no place states it, images
stay in [0, 1], with a note.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.protocols import Contract
from doublure.core.seeding import child_seed
from doublure.data.checkpoints import PROGRAM, CheckpointError, Weights, read_weights
from doublure.data.programs import program_shapes, read_extra, read_program
from doublure.nets import builtin, user_file
from doublure.nets.network import Network
from doublure.nets.partial_contract import (
    EMPTY_CONTRACT,
    PartialContract,
    first_value,
    merge_contracts,
    partial_contract,
)
from doublure.nets.plans import Plan
from doublure.nets.references import HUBS, NetworkRef, Reference
from doublure.nets.state_dicts import count_from_weights, fitting_names, load_state_, looks_like
from doublure.nets.zoo import architecture_of, build_from_hub, stated_by_hub

# Contract of the built-in networks without other statements.
_SIZE, _CHANNELS = (32, 32), 3
# The description next to an exported program.
_PROGRAM_DESCRIPTION = "description.json"

# Contract of the built-in networks without other statements.
_SIZE, _CHANNELS = (32, 32), 3
# The description next to an exported program.
_PROGRAM_DESCRIPTION = "description.json"
# What a contract calls the output of a network that answers every pixel, and its shape.
_MAP, _MAP_SHAPE = "map", ("batch", "classes", "height", "width")

Rebuild = Callable[[nn.Module, Plan], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A loaded network.

    Args:
        notes: warnings for the user, one sentence each.
        random: whether its weights are random, not loaded.
    """

    network: Network[Any]
    notes: tuple[str, ...] = ()
    random: bool = False


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A resolved reference, before its network is built.

    Args:
        program: the same network as an exported program, where one lies beside it.
        notes: on the file of weights.
    """

    reference: Reference
    typed: bool = True
    own: PartialContract = EMPTY_CONTRACT
    state: Mapping[str, Tensor] | None = None
    weights: str = ""
    notes: tuple[str, ...] = ()
    program: Path | None = None
    pretrained: bool = False
    plan: Plan = ()


def open_architecture(said: NetworkRef, parsed: Reference, like: Contract | None) -> Opened:
    """Return what a named architecture stands for; hubs speak for their own weights only."""
    read = None if said.weights is None else read_reference_weights(said)
    pretrained = parsed.kind in HUBS and read is None and like is None
    opened = Opened(
        reference=parsed,
        state=None if read is None else read.tensors,
        weights=said.weights or "",
        notes=() if read is None else read.notes,
        pretrained=pretrained,
    )
    if parsed.kind not in HUBS or not (pretrained or read):
        return opened
    own = stated_by_hub(parsed)
    if pretrained and own.classes is None:
        raise ValueError(f"{said.ref} has no classifier, only features; choose one that has")
    for name in ("classes", "channels") if pretrained else ():
        asked, given = getattr(partial_contract(said), name), getattr(own, name)
        if asked not in (None, given):
            raise ValueError(
                f"{said.ref} comes with weights for {given} {name}, not {asked}; leave --{name} "
                "out, or give weights of your own with --weights"
            )
    return replace(opened, own=own)


def read_reference_weights(said: NetworkRef) -> Weights:
    assert said.weights is not None
    if Path(said.weights).suffix == PROGRAM:
        state = read_program(said.weights).state_dict()
        return Weights(tensors={name.removeprefix("body."): value for name, value in state.items()})
    return read_weights(said.weights, key=said.weights_key)


def assemble(
    said: NetworkRef,
    opened: Opened,
    like: Contract | None,
    allow_code: bool | Collection[str | Path],
    rng: torch.Generator | None,
    rebuild: Rebuild,
) -> Loaded:
    """Build the architecture, load the weights, merge the contract."""
    places = [
        partial_contract(said),
        opened.own,
        EMPTY_CONTRACT if like is None else partial_contract(like),
    ]
    size = first_value(places, "size") or _SIZE
    with seeded(rng):
        make = _maker(opened, size, allow_code)
        places.append(_counted(places, opened, make))
        channels, classes = first_value(places, "channels"), first_value(places, "classes")
        body = make(classes, channels)
    if isinstance(body, Network):  # from a function of a file, with its own contract
        return _with_own_contract(body, opened)
    if opened.reference.kind == "file":
        channels = channels or user_file.first_channels(body) or _CHANNELS
        answered = user_file.count_classes(body, said.ref, classes, channels, size)
        dense = user_file.answered(body, said.ref, channels, size).ndim == len(_MAP_SHAPE)
        output = _MAP if dense else None
        places.append(PartialContract(classes=answered, output=output))
    contract, notes = merge_contracts(places, size, channels or _CHANNELS, said.ref)
    body = rebuild(body, opened.plan)
    if opened.state is not None:
        notes += load_state_(
            body,
            opened.state,
            reference=opened.reference.text,
            weights=opened.weights,
            classes=contract.classes,
            channels=contract.channels,
            size=size,
        )
    name = opened.reference
    reference = architecture_of(name) if name.kind in HUBS else name.text
    network = Network(body, contract, reference, opened.plan)
    random = opened.state is None and not opened.pretrained
    return Loaded(network=network, notes=(*opened.notes, *notes), random=random)


def _with_own_contract(made: Network[Any], opened: Opened) -> Loaded:
    """Return a network that already has a contract."""
    if opened.state is not None:
        try:
            made.body.load_state_dict(fitting_names(opened.state, made.body))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            text = opened.reference.text
            raise ValueError(f"{opened.weights} does not fit {text}: {reason}") from error
    network = Network(made.body, made.contract, opened.reference.text, opened.plan)
    return Loaded(network=network, notes=opened.notes, random=opened.state is None)


def _maker(
    opened: Opened, size: tuple[int, int], allow_code: bool | Collection[str | Path]
) -> Callable[[int | None, int | None], nn.Module]:
    """Return a function that builds the architecture for numbers of classes and channels."""
    reference = opened.reference
    if reference.kind == "file":
        path, _, name = reference.target.rpartition(":")
        _permit(opened, path, allow_code)
        factory = user_file.load_factory(path, name)
        return lambda classes, channels: user_file.make(
            factory, reference.text, classes=classes, channels=channels, size=size
        )

    def make(classes: int | None, channels: int | None) -> nn.Module:
        if classes is None:
            raise ValueError(_no_classes(opened, size))
        channels = channels or _CHANNELS
        if reference.kind == "builtin":
            return builtin.build(reference.target, classes=classes, channels=channels, size=size)
        return build_from_hub(
            reference, classes=classes, channels=channels, size=size, pretrained=opened.pretrained
        )

    return make


def _no_classes(opened: Opened, size: tuple[int, int]) -> str:
    ref = opened.reference
    if ref.kind == "builtin":
        builtin.build(ref.target, classes=1, size=size)  # an unknown name is the better reason
    if opened.state is not None:
        return f"{opened.weights} does not fit {ref.text}; {looks_like(opened.state, size)}"
    return (
        f"the number of classes of {ref.text} is unknown; use --classes N (or a file of their "
        f"names), or give its weights"
    )


def _permit(opened: Opened, path: str, allow_code: bool | Collection[str | Path]) -> None:
    if isinstance(allow_code, bool):
        allowed = allow_code and opened.typed
    else:
        allowed = Path(path).resolve() in {Path(item).resolve() for item in allow_code}
    if not allowed:
        instead = f", or name {opened.program}, which needs none" if opened.program else ""
        raise ValueError(
            f"{opened.reference.text} would run the code in {path}; "
            f"if you trust it, use --allow-code {path}{instead}"
        )


def _counted(
    places: list[PartialContract],
    opened: Opened,
    make: Callable[[int | None, int | None], nn.Module],
) -> PartialContract:
    """Return the numbers that only the weights determine, for cheap architectures."""
    if opened.state is None or opened.reference.kind != "builtin":
        return EMPTY_CONTRACT
    classes, channels = first_value(places, "classes"), first_value(places, "channels")
    return PartialContract(
        classes=classes or count_from_weights(opened.state, "classes", make),
        channels=channels or count_from_weights(opened.state, "channels", make),
    )


@contextlib.contextmanager
def seeded(rng: torch.Generator | None) -> Iterator[None]:
    """Context manager that seeds torch's global generator, used by initialisers, from `rng`."""
    seed = child_seed(0 if rng is None else rng.initial_seed(), "weights")
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed every GPU.
        torch.default_generator.manual_seed(seed)
        yield


def load_program(said: NetworkRef, path: Path, own: PartialContract) -> Loaded:
    """Return an exported program, which includes normalisation, as a network."""
    if said.weights is not None:
        raise ValueError(f"{path} has its own weights; remove --weights")
    module = read_program(path)
    image, answer = program_shapes(module)
    _, channels, height, width = image
    size = None if height is None or width is None else (height, width)
    inside = PartialContract(size=size, channels=channels, classes=answer[1])
    for name in ("size", "channels", "classes"):
        asked, given = getattr(partial_contract(said), name), getattr(inside, name)
        if asked is not None and given not in (None, asked):
            raise ValueError(f"{path} was exported with {name} {given}, not {asked}; leave it out")
    places = [partial_contract(said), inside, replace(own, mean=None, std=None), _said_beside(path)]
    channels = first_value(places, "channels") or _CHANNELS
    places.append(PartialContract(mean=(0.0,) * channels, std=(1.0,) * channels))
    if first_value(places, "classes") is None:
        raise ValueError(f"the number of classes of {path} is unknown; use --classes")
    contract, notes = merge_contracts(
        places, first_value(places, "size") or _SIZE, channels, str(path)
    )
    return Loaded(network=Network(module, contract, said.ref), notes=tuple(notes))


def _said_beside(path: Path) -> PartialContract:
    """Return the description that the export wrote into the program's file."""
    text = read_extra(path, _PROGRAM_DESCRIPTION)
    if text is None:
        return EMPTY_CONTRACT
    try:
        values = {name: json.loads(value) for name, value in json.loads(text).items()}
        names = values["class_names"]
        return PartialContract(
            names=None if names is None else tuple(str(name) for name in names),
            interpolation=str(values["interpolation"]),
            crop_pct=float(values["crop_pct"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: its {_PROGRAM_DESCRIPTION} is damaged ({error})") from error
