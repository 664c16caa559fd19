"""From the user's texts to networks, sources, objectives and overrides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from doublure import catalogue
from doublure.catalogue import plugins
from doublure.core.checks import one_of
from doublure.core.protocols import Contract, Source, parts_of
from doublure.data.class_names import read_names
from doublure.data.generator_file import is_generator
from doublure.engine.foreign_parts import load_class, names_class
from doublure.engine.recipe import Recipe, Stage
from doublure.engine.task import Task
from doublure.nets.network import Network, other_precisions
from doublure.nets.references import NetworkRef, parse
from doublure.networks import resolve
from doublure.objectives.weighted import AnyObjective, Weighted
from doublure.recipe_file import replace_keys
from doublure.sources.few import Few
from doublure.sources.lcw import LCW
from doublure.sources.shader_files import SUFFIXES as SHADER_SUFFIXES
from doublure.sources.shader_files import ShaderFiles
from doublure.sources.surrogate import Surrogate

# Marks a network that was passed in Python in a recipe, which cannot be re-run from text.
IN_PYTHON = "python:"


def network_named(
    reference: str | NetworkRef | nn.Module,
    *,
    weights: str | None = None,
    weights_key: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | str | None = None,
) -> NetworkRef:
    """Return the reference of a network with its options.

    Args:
        size: height and width, or one number for both.
        classes: their number, or a file with one name per line.
    """
    if isinstance(reference, nn.Module):
        kind = type(reference.body if isinstance(reference, Network) else reference)
        return NetworkRef(ref=f"{IN_PYTHON}{kind.__name__}")
    made = reference if isinstance(reference, NetworkRef) else NetworkRef(ref=reference)
    count, names = _counted(classes)
    said: dict[str, Any] = {
        "weights": weights,
        "weights_key": weights_key,
        "mean": None if mean is None else tuple(mean),
        "std": None if std is None else tuple(std),
        "size": (size, size) if isinstance(size, int) else size,
        "classes": count,
        "names": names,
    }
    return replace(made, **{name: value for name, value in said.items() if value is not None})


def with_classes(contract: Any, classes: int | str | None) -> Any:
    """Return the contract with other classes, given as a number or a file of names."""
    count, names = _counted(classes)
    if count is None:
        return contract
    return replace(contract, classes=count, names=names)


def _counted(classes: int | str | None) -> tuple[int | None, tuple[str, ...] | None]:
    """Return the number of classes, and their names if a file has them."""
    if isinstance(classes, str) and not classes.isdigit():
        names = read_names(Path(classes))
        return len(names), names
    return None if classes is None else int(classes), None


def as_network(network: nn.Module, contract: Contract | None) -> Network[Any]:
    """Return a module that was passed in Python as a network with a contract.

    Raises:
        ValueError: its contract is unknown, or its weights are not in float32.
    """
    if others := other_precisions(network):
        raise ValueError(
            f"{type(network).__name__} has {others} weights, but needs float32; pass "
            f"network.float(), and set the precision of its training with precision="
        )
    if isinstance(network, Network):
        return network
    if contract is None:
        raise ValueError(
            f"{type(network).__name__} has no input contract; wrap it as "
            "doublure.Network(module, InputContract(...))"
        )
    return Network(network, contract)


def permitted(
    *references: str | NetworkRef | nn.Module | None, allow_code: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the files whose code may run: those allowed, and typed file: references."""
    typed = []
    for reference in references:
        if reference is not None and not isinstance(reference, nn.Module):
            parsed = parse(network_named(reference).ref)
            if parsed.kind == "file":
                typed.append(parsed.target.rpartition(":")[0])
    return (*allow_code, *typed)


def open_network(
    network: str | NetworkRef | nn.Module,
    *,
    say: Callable[[str], None] = lambda _: None,
    verb: str,
    allow_code: Sequence[str] = (),
    **said: Any,
) -> Network[Any]:
    """Return the network that the user named or passed; `say` gets its notes.

    Args:
        verb: refused if it does not support networks of that task.
        allow_code: files whose code may run if a run's folder needs it.
    """
    if isinstance(network, nn.Module):
        return _check_verb(as_network(network, None), verb)
    allowed = permitted(network, allow_code=allow_code)
    made = resolve(network_named(network, **said), allow_code=allowed)
    _check_verb(made.network, verb)
    for note in made.notes:
        say(note)
    return made.network


def _check_verb(network: Network[Any], verb: str) -> Network[Any]:
    task = plugins().task_of(network.contract)
    if verb not in task.verbs:
        raise ValueError(
            f"{network.reference or 'this network'} {task.words.takes}, and {verb} is not for such "
            f"networks; these are: {', '.join(sorted(task.verbs))}"
        )
    return network


def check_options(task: Task, given: Mapping[str, Any]) -> None:
    """Refuse options that a task does not support.

    Args:
        given: options by name; missing ones are None or False.
    """
    for name, value in given.items():
        if value not in (None, False) and name not in task.options:
            option = name.replace("_", "-")
            raise ValueError(
                f"--{option} does not apply to {task.name}, whose network {task.words.takes}; "
                f"remove it"
            )


def source_named(source: str | Source, *, labels: bool = False, contract: Any = None) -> Source:
    """Return the source of a name in the catalogue, or of a path.

    Args:
        contract: contract of the images, for sources whose settings depend on their size.
    """
    if not isinstance(source, str):
        return source
    if names_class(source) and not Path(source).exists():
        named = _by_class(source)
        if isinstance(named, Source):
            return named
        raise ValueError(f"{source} is not a source: it lacks open(context, teacher, rng)")
    known = catalogue.by_name(catalogue.SOURCES)
    if source in known:
        named = known[source].make(contract)
        assert isinstance(named, Source)
        return named
    path = Path(source)
    if is_generator(path):
        return LCW(generator=source)
    if path.is_dir() and any(item.suffix in SHADER_SUFFIXES for item in path.iterdir()):
        return ShaderFiles(folder=path)
    if source.startswith("builtin/") or path.exists():
        if contract is None:  # images without labels
            return Surrogate(data=source, labels=labels)
        return plugins().task_of(contract).transfer(source, contract, labels=labels)
    way_out = "; or the path of images (a folder, a SET, a .npz) or of a folder of shaders"
    one_of("source", source, known, way_out=way_out)
    raise AssertionError(source)


def _by_class(name: str) -> Any:
    """Return a user's class with default values; its code may run, as it was typed."""
    settings = load_class(name, allow_code=True)
    try:
        return settings()
    except TypeError as error:
        raise ValueError(f"{name} has no default for each of its fields ({error})") from error


def objective_named(texts: Sequence[str]) -> AnyObjective | None:
    """Return the objective for texts "NAME" or "NAME=WEIGHT"; several are summed."""
    known = catalogue.by_name(catalogue.OBJECTIVES)
    terms = []
    for text in texts:
        name, _, weight = text.partition("=")
        if names_class(name):
            objective = _by_class(name)
        else:
            objective = known[one_of("objective", name, known)].make()
        try:
            terms.append((float(weight or 1.0), objective))
        except ValueError as error:
            raise ValueError(f"--objective {text}: the weight must be a number") from error
    if not terms:
        return None
    return terms[0][1] if len(terms) == 1 and terms[0][0] == 1.0 else Weighted(terms=tuple(terms))


def with_options(
    recipe: Recipe,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    skip_bad: bool = False,
    assignments: Mapping[str, str] | None = None,
) -> Recipe:
    """Return the recipe with the common options of training verbs; --set is applied last.

    Args:
        steps: steps of the whole run, distributed over stages in the recipe's proportion.
    """
    shown = [part for stage in recipe.stages for part in parts_of(stage.source)]
    reading = {"surrogate": Surrogate, "few": Few} if skip_bad else {}
    for kind, settings in reading.items():
        if any(isinstance(part, settings) for part in shown):
            assignments = {f"{kind}.skip_bad": "true"} | dict(assignments or {})
    if steps is not None:
        recipe = replace(recipe, stages=_lasting(recipe.stages, steps))
    fit: dict[str, Any] = {
        "batch_size": batch_size,
        "learning_rate": lr,
        "precision": precision,
    }
    told = {name: value for name, value in fit.items() if value is not None}
    stages = tuple(replace(stage, fit=replace(stage.fit, **told)) for stage in recipe.stages)
    whole: dict[str, Any] = {"seed": seed, "device": device}
    recipe = replace(
        recipe,
        stages=stages,
        **{name: value for name, value in whole.items() if value is not None},
    )
    return replace_keys(recipe, assignments) if assignments else recipe


def _lasting(stages: tuple[Stage, ...], steps: int) -> tuple[Stage, ...]:
    """Return the stages with this many steps in total, at least one each."""
    whole = sum(stage.fit.steps for stage in stages)
    if steps == whole:
        return stages
    if steps < len(stages):
        raise ValueError(
            f"this recipe has {len(stages)} stages and needs as many steps, got {steps}"
        )
    made, left = [], steps
    for i, stage in enumerate(stages):
        remain = len(stages) - 1 - i
        part = round(steps * stage.fit.steps / whole) if remain else left
        part = min(max(1, part), left - remain)
        made.append(replace(stage, fit=replace(stage.fit, steps=part)))
        left -= part
    return tuple(made)
