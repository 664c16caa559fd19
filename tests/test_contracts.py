"""Every source and objective of the catalogue through one table of promises."""

import copy
import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from doublure import catalogue
from doublure.core.protocols import (
    Batch,
    InputContract,
    Loss,
    Outputs,
    Source,
    Stream,
    StreamContext,
    image_batch,
)
from doublure.engine.fit import FitSettings
from doublure.engine.recipe import Recipe, Stage
from doublure.nets.convnet import ConvNet
from doublure.nets.features import FeatureRecorder
from doublure.nets.network import freeze
from doublure.nets.references import NetworkRef
from doublure.objectives.soft_targets import SoftTargets
from doublure.objectives.weighted import open_loss
from doublure.recipe_file import from_toml, to_toml
from doublure.sources.noise import Noise
from doublure.sources.shader_files import ShaderFiles
from doublure.verbs.doctor import doctor
from tests import tiny
from tests.methods import example

COLOUR = InputContract(size=(16, 12), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, classes=3)


# Parts that one task alone has keep these promises in its own tests.
ENTRIES = {entry.name: entry for entry in catalogue.METHODS if not entry.place.startswith("tasks/")}
OBJECTIVES = [entry.name for entry in catalogue.OBJECTIVES if entry.name in ENTRIES]
WRAPPERS = [entry.name for entry in catalogue.WRAPPERS if entry.name in ENTRIES]
SOURCES = [entry.name for entry in catalogue.SOURCES if entry.name in ENTRIES] + WRAPPERS


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> dict[str, Source]:
    return {name: example(ENTRIES[name], tmp_path_factory.mktemp(name)) for name in SOURCES}


@pytest.fixture(params=SOURCES)
def source(request, table) -> Source:
    if request.param == "shader-files" and not opengl():
        pytest.skip("this machine offers no OpenGL; see `doublure doctor`")
    return table[request.param]


def opengl() -> bool:
    return next(offer["there"] for offer in doctor() if offer["name"] == "OpenGL")


def grey_network(seed: int = 0) -> nn.Module:
    return tiny.network(seed).eval()


def opened(source: Source, teacher: nn.Module | None = None, *, seed: int = 0, **context: Any):
    where = dataclasses.replace(tiny.context(batch_size=8, steps=6), **context)
    return source.open(where, freeze(teacher or grey_network()), tiny.rng(seed))


def drawn(stream: Stream, *steps: int) -> list[Tensor]:
    return [stream.draw(step, grey_network(1)).images.clone() for step in steps]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def tensors(state: Any) -> Iterator[Any]:
    """Yield what a state holds, without the tables around it."""
    if isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
    else:
        yield state


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as it comes back from a checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def standing(network: nn.Module) -> dict[str, Any]:
    """Return all of a network that nobody else may change."""
    hooks = [
        len(table)
        for module in network.modules()
        for name, table in vars(module).items()
        if name.endswith("_hooks") and table is not None
    ]
    return {
        "state": {name: value.clone() for name, value in network.state_dict().items()},
        "grads": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "asked": [p.requires_grad for p in network.parameters()],
        "modes": [module.training for module in network.modules()],
        "hooks": hooks,
    }


def assert_same(before: Any, after: Any) -> None:
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


def test_the_same_seed_shows_the_same_and_another_seed_another(source):
    steps = range(4)
    expected = drawn(opened(source), *steps)
    assert equal(drawn(opened(source), *steps), expected)
    assert not equal(drawn(opened(source, seed=1), *steps), expected)


def test_torchs_global_generator_neither_matters_nor_moves(source):
    expected = drawn(opened(source), 0, 1)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert equal(drawn(opened(source), 0, 1), expected)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_stream_goes_on_from_its_state_alone(source):
    stream = opened(source)
    drawn(stream, 0, 1, 2)
    state = stream.state_dict()
    kept = saved(state)
    expected = drawn(stream, 3, 4)
    assert_same(kept, saved(state))  # what was handed out is not changed behind one's back
    again = opened(source)
    again.load_state_dict(saved(kept))
    assert equal(drawn(again, 3, 4), expected)
    again.load_state_dict(kept)
    assert equal(drawn(again, 3, 4), expected)


def test_without_state_the_order_of_draws_does_not_matter(source):
    stream = opened(source)
    expected = drawn(stream, 0, 1, 2)
    if list(tensors(stream.state_dict())):
        pytest.skip("this stream has a state")
    assert equal(drawn(opened(source), 2, 0, 1), [expected[2], expected[0], expected[1]])


def test_neither_teacher_nor_student_nor_settings_change(source):
    teacher, student, settings = freeze(grey_network()), tiny.network(1), repr(source)
    student(torch.rand(4, 1, 8, 8)).sum().backward()
    student[4].eval()
    before = copy.deepcopy((standing(teacher), standing(student)))
    stream = opened(source, teacher)
    for step in range(3):
        stream.draw(step, student)
    assert_same(before, (standing(teacher), standing(student)))
    assert repr(source) == settings


def test_held_out_images_are_none_of_those_trained_on(source):
    if isinstance(source, ShaderFiles):
        pytest.skip("of a few files other times are held out, which may look the same")
    train = torch.cat(drawn(opened(source), *range(6)))
    held = torch.cat(drawn(opened(source, split="held_out"), *range(6)))
    same = (train[:, None] == held[None]).flatten(2).all(-1)
    assert not same.any()


def test_each_process_draws_images_of_its_own(source):
    one, other = (drawn(opened(source, rank=rank, world=2), 0, 1) for rank in (0, 1))
    assert not equal(one, other)


@pytest.mark.parametrize("contract", [tiny.CONTRACT, COLOUR], ids=["grey", "colour"])
def test_images_are_floats_in_0_1_of_the_shape_the_contract_says(source, contract):
    teacher = grey_network() if contract is tiny.CONTRACT else colour_network()
    batch = opened(source, teacher, contract=contract).draw(0, None)
    assert batch.images.shape == (8, contract.channels, *contract.size)
    assert batch.images.dtype == torch.float32
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert batch.views["teacher"] is batch.views["student"]


def colour_network() -> nn.Module:
    network = grey_network()
    network[0] = nn.Conv2d(3, 4, 3, padding=1)
    return network


@dataclass(frozen=True, kw_only=True)
class MethodInputs:
    """A source that shows tensors it keeps, so that whoever writes into them is found out."""

    images: tuple[Tensor, ...]

    def open(
        self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator
    ) -> "MethodInputs":
        return self

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return image_batch(self.images[step % len(self.images)])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_a_wrapper_is_given_stays_as_it_was(name, tmp_path):
    images = tuple(torch.rand(8, 1, 8, 8, generator=tiny.rng(i)) for i in range(3))
    before = [image.clone() for image in images]
    wrapper = example(ENTRIES[name], tmp_path, inner=MethodInputs(images=images))
    drawn(opened(wrapper), 0, 1, 2, 3)
    assert equal(list(images), before)


def objective_named(name: str) -> Any:
    return example(ENTRIES[name], Path("an objective reads nothing"))


def as_recipe(source: Source, objective: Any) -> Recipe:
    stage = Stage(source=source, objective=objective, fit=FitSettings(steps=5))
    return Recipe(student=NetworkRef(ref="builtin/resnet8"), stages=(stage,))


def test_settings_of_a_source_survive_replace_and_a_recipe_file(table):
    for source in table.values():
        assert dataclasses.replace(source) == source
        recipe = as_recipe(source, SoftTargets())
        assert from_toml(to_toml(recipe)) == recipe


@pytest.mark.parametrize("name", OBJECTIVES)
def test_settings_of_an_objective_survive_replace_and_a_recipe_file(name):
    objective = objective_named(name)
    assert dataclasses.replace(objective) == objective
    recipe = as_recipe(Noise(), objective)
    assert from_toml(to_toml(recipe)) == recipe


def staged_network(seed: int, width: int = 4) -> nn.Module:
    """Three stages, for objectives that compare layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNet(width=width, classes=3, channels=1)


@dataclass
class Asked:
    """An objective at work on a labelled batch: the two networks, and what they answered."""

    student: nn.Module
    teacher: nn.Module
    batch: Batch
    loss: Loss

    def traces(self, order: Tensor | None = None) -> tuple[Outputs, Outputs, Batch]:
        """Return both answers and the batch, with the samples in another order."""
        order = torch.arange(8) if order is None else order
        assert self.batch.labels is not None
        assert self.batch.index is not None
        turned = image_batch(
            self.batch.images[order],
            labels=self.batch.labels[order],
            index=self.batch.index[order],
        )
        with FeatureRecorder(self.student, self.loss.features.student) as recorder:
            ours = recorder.record(turned.images)
        with FeatureRecorder(self.teacher, self.loss.features.teacher) as recorder, torch.no_grad():
            return ours, recorder.record(turned.images), turned


def asked(name: str) -> Asked:
    images = torch.rand(8, 1, 8, 8, generator=tiny.rng())
    labels = torch.randint(3, (8,), generator=tiny.rng())
    batch = image_batch(images, labels=labels, index=torch.arange(8))
    # In eval mode, so that an answer to an image is one whatever stands beside it.
    student, teacher = staged_network(1).eval(), freeze(staged_network(0, width=6))
    loss = open_loss(objective_named(name), student, teacher, batch, tiny.rng())
    return Asked(student, teacher, batch, loss)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_names_finite_scalars_the_same_each_time(name):
    one, other = asked(name), asked(name)
    other.loss.load_state_dict(saved(one.loss.state_dict()))
    terms = one.loss(*one.traces())
    assert_same(terms, other.loss(*other.traces()))
    assert terms
    assert all(value.shape == () and value.isfinite() for value in terms.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_pulls_the_student_and_nothing_else(name):
    one = asked(name)
    stands = copy.deepcopy((standing(one.student), standing(one.teacher)))
    ours, theirs, batch = one.traces()
    before = copy.deepcopy((batch.images, batch.labels, ours.output.detach(), vars(theirs)))
    terms = one.loss(ours, theirs, batch)
    torch.stack(list(terms.values())).sum().backward()
    pulled = [p.grad.abs().sum() for p in one.student.parameters() if p.grad is not None]
    assert sum(pulled) > 0
    one.student.zero_grad()
    assert_same(before, (batch.images, batch.labels, ours.output.detach(), vars(theirs)))
    assert_same(stands, (standing(one.student), standing(one.teacher)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_opening_an_objective_moves_neither_networks_nor_torchs_generator(name):
    student, teacher = staged_network(1), freeze(staged_network(0))
    images = torch.rand(2, 1, 8, 8, generator=tiny.rng())
    batch = image_batch(images, labels=torch.tensor([0, 1]), index=torch.arange(2))
    before = copy.deepcopy((standing(student), standing(teacher)))
    global_state = torch.random.get_rng_state()
    open_loss(objective_named(name), student, teacher, batch, tiny.rng())
    assert_same(before, (standing(student), standing(teacher)))
    assert torch.equal(torch.random.get_rng_state(), global_state)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_does_not_mind_the_order_of_its_samples(name):
    one, other = asked(name), asked(name)
    order = torch.randperm(8, generator=tiny.rng(3))
    torch.testing.assert_close(
        other.loss(*other.traces(order)), one.loss(*one.traces()), rtol=1e-4, atol=1e-5
    )
