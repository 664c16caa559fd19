"""From a reference to a network: architecture, weights and input contract, without surprises.

Each value of the contract is taken from the first place that states it: what was said beside the
reference, what the reference's own weights state, the network it shall be `like` (a student
inherits from its teacher), the weights themselves. Normalisation is never guessed: where nobody
states it, images stay in [0, 1], and a note says so.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from doublure.core.protocols import InputContract, TextContract
from doublure.core.seeding import child_seed
from doublure.data.checkpoints import PROGRAM, CheckpointError, read_weights
from doublure.data.programs import program_shapes, read_extra, read_program
from doublure.data.student_file import (
    TextDescription,
    describe_student,
    find_student,
    read_student,
    write_student,
)
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
from doublure.nets.plans import rebuild as rebuild_plan
from doublure.nets.references import HUBS, NetworkRef, Reference, no_network, parse
from doublure.nets.state_dicts import count_from_weights, load_state_, looks_like
from doublure.nets.zoo import architecture_of, build_from_hub, stated_by_hub
from doublure.tasks.translation.networks import assemble_translator, is_translator, text_contract

# What the built-in networks were made for, where nobody says otherwise.
_SIZE, _CHANNELS = (32, 32), 3
# What export writes beside a program.
_PROGRAM_DESCRIPTION = "description.json"

Rebuild = Callable[[nn.Module, Plan], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A network and what there is to say about it.

    Args:
        notes: what a person should be warned of, one sentence each.
        random: its weights were drawn, not read.
    """

    network: Network[Any]
    notes: tuple[str, ...] = ()
    random: bool = False


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What a reference stands for, before its network is built.

    Args:
        program: the same network as an exported program, where one lies beside it.
    """

    reference: Reference
    typed: bool = True
    own: PartialContract = EMPTY_CONTRACT
    state: Mapping[str, Tensor] | None = None
    weights: str = ""
    program: Path | None = None
    pretrained: bool = False
    plan: Plan = ()


def load(
    reference: NetworkRef | str,
    *,
    like: InputContract | TextContract | None = None,
    allow_code: bool | Collection[str | Path] = False,
    rng: torch.Generator | None = None,
    rebuild: Rebuild = rebuild_plan,
) -> Network[Any]:
    """Return the network that a reference names; see `resolve`."""
    return resolve(reference, like=like, allow_code=allow_code, rng=rng, rebuild=rebuild).network


def resolve(
    reference: NetworkRef | str,
    *,
    like: InputContract | TextContract | None = None,
    allow_code: bool | Collection[str | Path] = False,
    rng: torch.Generator | None = None,
    rebuild: Rebuild = rebuild_plan,
) -> Loaded:
    """Return the network that a reference names, with notes.

    Args:
        like: the network is a new one that inherits this contract; a hub's name then stands for
            the architecture only, and nothing is downloaded.
        allow_code: True where a person typed the reference: its own `file:` may run. Files named
            here may run also where a student.json asks for them.
        rng: draws the weights of a network that has none; None draws as seed 0.
        rebuild: applies the plan of a student whose architecture was changed.

    Raises:
        ValueError: with one line that says what is wrong where, and the way out.
    """
    said = NetworkRef(ref=reference) if isinstance(reference, str) else reference
    made = _resolved(said, like, allow_code, rng, rebuild)
    if not made.random or like is not None:
        return made
    note = f"{said.ref} was given no weights: it starts from random ones; see --weights"
    return replace(made, notes=(*made.notes, note))


def _resolved(
    said: NetworkRef,
    like: InputContract | TextContract | None,
    allow_code: bool | Collection[str | Path],
    rng: torch.Generator | None,
    rebuild: Rebuild,
) -> Loaded:
    parsed = parse(said.ref)
    if parsed.kind == "python":
        raise ValueError(
            f"{said.ref} was made in Python and cannot be made again from its name; pass the "
            "network itself, or name the run folder it was saved in"
        )
    if parsed.kind == "program":
        return _load_program(said, Path(parsed.target), EMPTY_CONTRACT)
    if parsed.kind == "builtin" and is_translator(parsed.target):
        state = None if said.weights is None else _read_weights(said)
        contract = text_contract(said, like if isinstance(like, TextContract) else None)
        return _load_translator(parsed, contract, state, said.weights or "", rng)
    if isinstance(like, TextContract):
        raise ValueError(f"{said.ref} takes images, but shall be like a network that translates")
    if parsed.kind != "student":
        return _assemble(said, _open(said, parsed, like), like, allow_code, rng, rebuild)
    if not Path(parsed.target).exists():
        near = f"; did you mean builtin/{said.ref}?" if said.ref in builtin.names() else ""
        raise ValueError(no_network(said.ref) + near)
    file = find_student(parsed.target)
    state, description = read_student(file)
    if isinstance(description, TextDescription):
        parsed = parse(description.architecture)
        state = state if said.weights is None else _read_weights(said)
        return _load_translator(parsed, description.contract, state, str(file.parent), rng)
    own = partial_contract(description.contract)
    program = file.with_name("student" + PROGRAM)
    if not description.architecture and program.exists() and said.weights is None:
        return _load_program(said, program, own)
    if not description.architecture:
        raise CheckpointError(
            f"{file} names no architecture: its network was made in Python, and no "
            f"{program.name} lies beside it; make it there again, or name another REF"
        )
    if not rebuilds(description.architecture):
        raise CheckpointError(
            f"{file}: '{description.architecture}' is no architecture; doublure did not write it"
        )
    opened = _Opened(
        reference=parse(description.architecture),
        typed=False,
        own=own,
        state=state if said.weights is None else _read_weights(said),
        weights=str(file.parent) if said.weights is None else said.weights,
        program=program if program.exists() and said.weights is None else None,
        plan=description.plan,
    )
    return _assemble(said, opened, like, allow_code, rng, rebuild)


def save(network: Network[Any], folder: str | Path) -> None:
    """Write the network and what was done to it, as student.safetensors and student.json."""
    architecture = network.reference if rebuilds(network.reference) else ""
    description = describe_student(network.contract, architecture, network.plan)
    write_student(folder, network.body.state_dict(), description)


def rebuilds(reference: str) -> bool:
    """Whether a REF names an architecture that can be built again, rather than one network."""
    return reference != "" and parse(reference).kind not in ("python", "student", "program")


def _open(said: NetworkRef, parsed: Reference, like: InputContract | None) -> _Opened:
    """Return what a named architecture stands for; hubs speak for their own weights only."""
    state = None if said.weights is None else _read_weights(said)
    pretrained = parsed.kind in HUBS and state is None and like is None
    opened = _Opened(
        reference=parsed, state=state, weights=said.weights or "", pretrained=pretrained
    )
    if parsed.kind not in HUBS or not (pretrained or state):
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


def _read_weights(said: NetworkRef) -> dict[str, Tensor]:
    assert said.weights is not None
    if Path(said.weights).suffix == PROGRAM:
        state = read_program(said.weights).state_dict()
        return {name.removeprefix("body."): value for name, value in state.items()}
    return read_weights(said.weights, ema=said.ema)


def _assemble(
    said: NetworkRef,
    opened: _Opened,
    like: InputContract | None,
    allow_code: bool | Collection[str | Path],
    rng: torch.Generator | None,
    rebuild: Rebuild,
) -> Loaded:
    """Build the architecture, load the weights, settle the contract."""
    places = [
        partial_contract(said),
        opened.own,
        EMPTY_CONTRACT if like is None else partial_contract(like),
    ]
    size = first_value(places, "size") or _SIZE
    with _seeded(rng):
        make = _maker(opened, size, allow_code)
        places.append(_counted(places, opened, make))
        channels, classes = first_value(places, "channels"), first_value(places, "classes")
        body = make(classes, channels)
    if opened.reference.kind == "file":
        channels = channels or user_file.first_channels(body) or _CHANNELS
        answered = user_file.count_classes(body, said.ref, classes, channels, size)
        places.append(PartialContract(classes=answered))
    contract, notes = merge_contracts(places, size, channels or _CHANNELS, said.ref)
    body = rebuild(body, opened.plan)
    if opened.state is not None:
        load_state_(
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
    return Loaded(network=network, notes=tuple(notes), random=random)


def _maker(
    opened: _Opened, size: tuple[int, int], allow_code: bool | Collection[str | Path]
) -> Callable[[int | None, int | None], nn.Module]:
    """Return what builds the architecture for numbers of classes and channels, None if unsaid."""
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


def _no_classes(opened: _Opened, size: tuple[int, int]) -> str:
    ref = opened.reference
    if ref.kind == "builtin":
        builtin.build(ref.target, classes=1, size=size)  # a name nobody knows is the better reason
    if opened.state is not None:
        return f"{opened.weights} does not fit {ref.text}; {looks_like(opened.state, size)}"
    return (
        f"nothing states how many classes {ref.text} has; say --classes N (or a file of their "
        "names), or give its weights"
    )


def _permit(opened: _Opened, path: str, allow_code: bool | Collection[str | Path]) -> None:
    if isinstance(allow_code, bool):
        allowed = allow_code and opened.typed
    else:
        allowed = Path(path).resolve() in {Path(item).resolve() for item in allow_code}
    if not allowed:
        instead = f", or name {opened.program}, which needs none" if opened.program else ""
        raise ValueError(
            f"{opened.reference.text} would run the code in {path}; "
            f"if you trust it, say --allow-code {path}{instead}"
        )


def _counted(
    places: list[PartialContract],
    opened: _Opened,
    make: Callable[[int | None, int | None], nn.Module],
) -> PartialContract:
    """Return the numbers that only the weights tell, for architectures that are cheap to build."""
    if opened.state is None or opened.reference.kind != "builtin":
        return EMPTY_CONTRACT
    classes, channels = first_value(places, "classes"), first_value(places, "channels")
    return PartialContract(
        classes=classes or count_from_weights(opened.state, "classes", make),
        channels=channels or count_from_weights(opened.state, "channels", make),
    )


@contextlib.contextmanager
def _seeded(rng: torch.Generator | None) -> Iterator[None]:
    """Let torch's global generator, which initialisers draw from, start from a child of `rng`."""
    seed = child_seed(0 if rng is None else rng.initial_seed(), "weights")
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed every GPU as well.
        torch.default_generator.manual_seed(seed)
        yield


def _load_translator(
    parsed: Reference,
    contract: TextContract,
    state: Mapping[str, Tensor] | None,
    weights: str,
    rng: torch.Generator | None,
) -> Loaded:
    with _seeded(rng):
        network = assemble_translator(parsed.target, parsed.text, contract, state, weights)
    return Loaded(network=network, random=state is None)


def _load_program(said: NetworkRef, path: Path, own: PartialContract) -> Loaded:
    """Return an exported program as a network; its normalisation is inside."""
    if said.weights is not None:
        raise ValueError(f"{path} holds its own weights; leave --weights out")
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
        raise ValueError(f"{path} does not tell how many classes it answers; say --classes")
    contract, notes = merge_contracts(
        places, first_value(places, "size") or _SIZE, channels, str(path)
    )
    return Loaded(network=Network(module, contract, said.ref), notes=tuple(notes))


def _said_beside(path: Path) -> PartialContract:
    """Return what was written into the program's file when it was exported."""
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
