import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from doublure.core.protocols import Batch, StreamContext, innermost, parts_of
from doublure.engine.recipe import Stage
from doublure.nets.network import Network
from doublure.objectives.soft_targets import SoftTargets
from doublure.sources.augmentation import Augmented
from doublure.sources.combined import Combined, divide
from doublure.sources.flat import Flat
from doublure.sources.matched import Matched
from doublure.sources.mixing import Mixed
from doublure.sources.noise import Noise
from doublure.sources.replay import Replay
from doublure.sources.shaders import Shaders
from doublure.sources.surrogate import Surrogate
from doublure.tasks.classification.held_out import answer_held_out
from tests import tiny

EXAMPLES = (Combined(sources=(Noise(), Flat()), shares=(0.75, 0.25)),)


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Grey noise with fields of its batch replaced."""

    fields: Any
    labels: bool = False

    def open(self, context: StreamContext, teacher: nn.Module | None, rng: torch.Generator) -> Any:
        return ChangedStream(self.fields, context, rng, labels=self.labels)


class ChangedStream(tiny.GreyStream):
    def __init__(
        self, fields: Any, context: StreamContext, rng: torch.Generator, *, labels: bool
    ) -> None:
        super().__init__(context, rng, labels=labels)
        self.fields = fields

    def draw(self, step: int, student: nn.Module | None) -> Batch:
        return dataclasses.replace(super().draw(step, student), **self.fields)


def opened(*sources, shares=(0.75, 0.25), batch_size=8, **context):
    combined = Combined(sources=sources, shares=shares)
    return combined.open(tiny.context(batch_size=batch_size, **context), None, tiny.rng())


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (128, (0.75, 0.25), (96, 32)),
        (10, (1, 1, 1), (4, 3, 3)),
        (7, (0.5, 0.3, 0.2), (4, 2, 1)),  # 3.5, 2.1, 1.4
        (8, (0.99, 0.01), (7, 1)),
        (2, (1, 1, 98), (1, 0, 1)),
        (1, (0.25, 0.75), (0, 1)),
    ],
)
def test_shares_become_whole_numbers_by_largest_remainders(count, shares, expected):
    assert divide(count, shares) == expected


@given(count=st.integers(1, 300), shares=st.lists(st.floats(0.01, 1), min_size=2, max_size=5))
def test_the_parts_add_up_and_none_is_far_from_its_share(count, shares):
    parts = divide(count, shares)
    assert sum(parts) == count
    assert min(parts) >= (1 if count >= len(shares) else 0)
    over = [part - count * share / sum(shares) for part, share in zip(parts, shares, strict=True)]
    assert max(over) <= 1
    assert min(over) > -len(shares)


def test_each_part_is_its_source_at_its_own_batch_size_and_seed():
    batch = opened(Noise(), Noise()).draw(3, None)
    assert batch.images.shape == (8, 1, 8, 8)
    assert not torch.equal(batch.images[0], batch.images[6])
    other = opened(Noise(), Flat()).draw(3, None)
    assert torch.equal(other.images[:6], batch.images[:6])
    assert other.images[6:].flatten(2).std(-1).max() < 1e-6  # of one colour each


def test_labels_are_kept_where_all_have_them():
    assert opened(tiny.Grey(labels=True), tiny.Grey()).draw(0, None).labels is None
    labels = opened(tiny.Grey(labels=True), tiny.Grey(labels=True)).draw(0, None).labels
    assert labels.shape == (8,)
    assert labels.dtype == torch.int64


def test_labels_become_probabilities_where_one_source_has_those():
    both = opened(Mixed(source=tiny.Grey(labels=True)), tiny.Grey(labels=True))
    labels = both.draw(0, None).labels
    assert labels.shape == (8, 3)
    torch.testing.assert_close(labels.sum(-1), torch.ones(8))
    assert set(labels[6:].flatten().tolist()) == {0.0, 1.0}


def test_a_pool_is_as_full_as_the_emptiest_and_rounds_are_the_most_frequent():
    def told(**metrics):
        return Changed(fields={"metrics": {k: torch.tensor(float(v)) for k, v in metrics.items()}})

    metrics = opened(told(pool=0.5, round=64, images=1), told(pool=0.25, round=16, images=2, own=3))
    told = {name: value.item() for name, value in metrics.draw(0, None).metrics.items()}
    assert told == {"pool": 0.25, "round": 16, "images": 1, "own": 3}


def test_views_stay_two_where_a_source_shows_two():
    seen, asked = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    two = Changed(fields={"views": {"student": seen, "teacher": asked}})
    batch = opened(tiny.Grey(), two).draw(0, None)
    assert torch.equal(batch.views["student"][6:], seen)
    assert torch.equal(batch.views["teacher"][6:], asked)
    assert torch.equal(batch.views["student"][:6], batch.views["teacher"][:6])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask": torch.ones(2, dtype=torch.bool)}, "masks cannot be combined"),
        ({"size_factor": 2.0}, "different sizes.*change the size outside of Combined"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        opened(tiny.Grey(), Changed(fields=fields)).draw(0, None)


@pytest.mark.parametrize(
    ("sources", "shares", "message"),
    [
        ((Noise(),), (1.0,), "at least two sources, got 1; use it directly"),
        ((Noise(), Flat()), (1.0,), r"one value per source \(2\), got 1"),
        ((Noise(), Flat()), (1.0, 0.0), "a share must be positive, got 0"),
    ],
)
def test_a_combination_of_nothing_is_refused(sources, shares, message):
    with pytest.raises(ValueError, match=message):
        Combined(sources=sources, shares=shares)


def test_a_batch_too_small_for_all_is_drawn_from_some():
    assert opened(Noise(), Noise(), Noise(), shares=(1, 1, 1), batch_size=2).draw(
        0, None
    ).images.shape == (2, 1, 8, 8)


def test_the_innermost_source_is_that_of_the_first_and_all_parts_can_be_walked():
    inside = Combined(
        sources=(Replay(source=Matched(source=Shaders())), Noise()), shares=(0.5, 0.5)
    )
    source = Augmented(source=inside)
    assert innermost(source) == Shaders()
    assert [type(part) for part in parts_of(source)] == [
        Augmented,
        Combined,
        Replay,
        Matched,
        Shaders,
        Noise,
    ]


def test_both_are_held_out_and_named():
    network = Network(tiny.network(0), tiny.CONTRACT)
    source = Combined(sources=(Noise(), Surrogate(data="builtin/digits")), shares=(0.5, 0.5))
    stage = Stage(source=source, objective=SoftTargets(), fit=tiny.settings())
    told = answer_held_out(stage, 0, network, Network(tiny.network(1), tiny.CONTRACT), count=16)
    assert told.on == "held-out images of the sources noise and surrogate, side by side, as fed"
    everything = dataclasses.replace(
        source, sources=(Noise(), Surrogate(data="builtin/digits", held_out=0.0))
    )
    told = answer_held_out(dataclasses.replace(stage, source=everything), 0, network, network, 16)
    assert told.on.startswith("shader images of a fixed set")
