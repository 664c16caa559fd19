"""From a reference to a network, and from a network to files, for all tasks.

`image_loading` loads networks with one image as input, for any kind of output; a task may build
other networks itself.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from doublure.core.protocols import Contract
from doublure.data.checkpoints import PROGRAM, CheckpointError
from doublure.data.student_file import (
    find_student,
    read_student,
    write_student,
)
from doublure.engine.image_loading import (
    Loaded,
    Opened,
    Rebuild,
    assemble,
    load_program,
    open_architecture,
    read_reference_weights,
    seeded,
)
from doublure.engine.plugins import task_of
from doublure.engine.task import Task
from doublure.nets import builtin
from doublure.nets.network import Network
from doublure.nets.partial_contract import (
    EMPTY_CONTRACT,
    partial_contract,
)
from doublure.nets.plans import Plan
from doublure.nets.plans import rebuild as rebuild_plan
from doublure.nets.quantized import packed_state
from doublure.nets.references import NetworkRef, Reference, no_network, parse
from doublure.nets.state_dicts import fitting_names


def load(
    reference: NetworkRef | str,
    *,
    like: Contract | None = None,
    allow_code: bool | Collection[str | Path] = False,
    rng: torch.Generator | None = None,
    rebuild: Rebuild = rebuild_plan,
    tasks: tuple[Task, ...],
) -> Network[Any]:
    """Return the network of a reference; see `resolve`."""
    return resolve(
        reference, like=like, allow_code=allow_code, rng=rng, rebuild=rebuild, tasks=tasks
    ).network


def resolve(
    reference: NetworkRef | str,
    *,
    like: Contract | None = None,
    allow_code: bool | Collection[str | Path] = False,
    rng: torch.Generator | None = None,
    rebuild: Rebuild = rebuild_plan,
    tasks: tuple[Task, ...],
) -> Loaded:
    """Return the network of a reference, with notes.

    Args:
        like: contract that a new network inherits; a hub's name then means the architecture only,
            without download.
        allow_code: True if the user typed the reference: its own `file:` may run. Files listed here
            may also run if a student.json needs them.
        rng: generator for random weights; None uses seed 0.
        rebuild: applies the plan of a student with a changed architecture.
        tasks: the tasks, which may have other networks than those with one image as input.

    Raises:
        ValueError: with one line of place, reason and remedy.
    """
    said = NetworkRef(ref=reference) if isinstance(reference, str) else reference
    made = _resolve(said, like, allow_code, rng, rebuild, tasks)
    if not made.random or like is not None:
        return made
    note = f"{said.ref} was given no weights: it starts from random ones; see --weights"
    return replace(made, notes=(*made.notes, note))


def _resolve(
    said: NetworkRef,
    like: Contract | None,
    allow_code: bool | Collection[str | Path],
    rng: torch.Generator | None,
    rebuild: Rebuild,
    tasks: tuple[Task, ...],
) -> Loaded:
    parsed = parse(said.ref)
    if parsed.kind == "python":
        raise ValueError(
            f"{said.ref} was made in Python and cannot be made again from its name; pass the "
            "network itself, or name the run folder it was saved in"
        )
    if parsed.kind == "student":
        return _resolve_student(said, parsed, like, allow_code, rng, rebuild, tasks)
    if parsed.kind == "program":
        return load_program(said, Path(parsed.target), EMPTY_CONTRACT)
    if (task := _builder(tasks, parsed)) is not None:
        read = None if said.weights is None else read_reference_weights(said)
        contract = task.contract_for(said, like if like is None or task.owns(like) else None)
        state = None if read is None else read.tensors
        made = _build(task, parsed, contract, state, said.weights or "", rng)
        return made if read is None else replace(made, notes=(*read.notes, *made.notes))
    images = _of_images(said, like, tasks)
    return assemble(said, open_architecture(said, parsed, images), images, allow_code, rng, rebuild)


def _resolve_student(
    said: NetworkRef,
    parsed: Reference,
    like: Contract | None,
    allow_code: bool | Collection[str | Path],
    rng: torch.Generator | None,
    rebuild: Rebuild,
    tasks: tuple[Task, ...],
) -> Loaded:
    """Return the network of a run folder or a student.json."""
    if not Path(parsed.target).exists():
        near = f"; did you mean builtin/{said.ref}?" if said.ref in builtin.names() else ""
        raise ValueError(no_network(said.ref) + near)
    file = find_student(parsed.target)
    state, student = read_student(file, {task.name: task.description for task in tasks})
    description = student.description
    notes: tuple[str, ...] = ()
    if said.weights is not None:
        read = read_reference_weights(said)
        state, notes = read.tensors, read.notes
    program = file.with_name("student" + PROGRAM)
    if not description.architecture and program.exists() and said.weights is None:
        return load_program(said, program, partial_contract(description.contract))
    if not description.architecture:
        raise CheckpointError(
            f"{file} names no architecture: its network was made in Python, and no "
            f"{program.name} lies beside it; make it there again, or name another REF"
        )
    if not rebuilds(description.architecture):
        raise CheckpointError(
            f"{file}: '{description.architecture}' is no architecture; doublure did not write it"
        )
    architecture = parse(description.architecture)
    if (task := _builder(tasks, architecture)) is not None:
        where, plan = str(file.parent), description.plan
        contract = description.contract
        return _build(task, architecture, contract, state, where, rng, rebuild, plan)
    opened = Opened(
        reference=architecture,
        typed=False,
        own=partial_contract(description.contract),
        state=state,
        weights=str(file.parent) if said.weights is None else said.weights,
        notes=notes,
        program=program if program.exists() and said.weights is None else None,
        plan=description.plan,
    )
    return assemble(said, opened, _of_images(said, like, tasks), allow_code, rng, rebuild)


def _builder(tasks: tuple[Task, ...], reference: Reference) -> Task | None:
    """Return the task of a builtin network, None for those with one image as input."""
    if reference.kind != "builtin":
        return None
    return next((task for task in tasks if task.builds(reference.target)), None)


def _build(
    task: Task,
    reference: Reference,
    contract: Contract,
    state: Mapping[str, Tensor] | None,
    weights: str,
    rng: torch.Generator | None,
    rebuild: Rebuild = rebuild_plan,
    plan: Plan = (),
) -> Loaded:
    """Build a task's own network as its plan says, with the weights of `state` if there are any."""
    with seeded(rng):
        body = rebuild(task.build(reference.target, contract), plan)
    if state is not None:
        try:
            body.load_state_dict(fitting_names(state, body))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{weights} does not fit {reference.text}: {reason}") from error
    return Loaded(network=Network(body, contract, reference.text, plan), random=state is None)


def _of_images(said: NetworkRef, like: Contract | None, tasks: tuple[Task, ...]) -> Contract | None:
    """Return the contract of `like`, which must be one of images."""
    if like is None or like.normalisation is not None:
        return like
    does = task_of(tasks, like).words.takes
    raise ValueError(f"{said.ref} takes images, but shall be like a network that {does}")


def save(network: Network[Any], folder: str | Path, *, tasks: tuple[Task, ...]) -> None:
    """Write the network and its plan, as student.safetensors and student.json."""
    task = task_of(tasks, network.contract)
    architecture = network.reference if rebuilds(network.reference) else ""
    description = task.describe(network.contract, architecture, network.plan)
    write_student(folder, packed_state(network.body), task.name, description)


def rebuilds(reference: str) -> bool:
    """Return whether a REF names an architecture, not one particular network."""
    return reference != "" and parse(reference).kind not in ("python", "student", "program")
