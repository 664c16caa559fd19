from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.protocols import Stream
from doublure.engine.recipe import Stage
from doublure.nets.network import Network
from doublure.objectives.soft_targets import SoftTargets
from doublure.sources.combined import Combined
from doublure.sources.few import Few, divide_by_class, shown_few
from doublure.sources.replay import Replay
from doublure.sources.shaders import Shaders
from doublure.sources.short_inversion import ShortInversion
from doublure.tasks.classification.evaluation import evaluate
from doublure.tasks.classification.held_out import answer_held_out
from tests import tiny


def few_of_three(folder: Path) -> Few:
    return Few(data=tiny.write_labelled(folder))


EXAMPLES = (few_of_three,)


def keys(count: int) -> list[bytes]:
    return [bytes([i // 256, i % 256]) for i in range(count)]


def written(path: Path, count: int, *, labelled: bool = True, offset: int = 0) -> str:
    """Image i has the value i everywhere and the label i % 3."""
    x = (np.arange(count) + offset).astype(np.uint8).repeat(64).reshape(-1, 8, 8)
    np.savez(path, x=x, **({"y": np.arange(count) % 3} if labelled else {}))
    return str(path)


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    return written(tmp_path / "few.npz", 30)


@pytest.fixture
def bare(tmp_path: Path) -> str:
    return written(tmp_path / "bare.npz", 20, labelled=False)


def opened(data: str, *, split: str = "train", batch_size: int = 8, **fields) -> Stream:
    place = tiny.context(split=split, batch_size=batch_size)
    return Few(data=data, **fields).open(place, None, tiny.rng())


def shown(stream: Stream, steps: int = 12) -> set[int]:
    return {i for step in range(steps) for i in stream.draw(step, None).index.tolist()}


def test_the_first_of_each_class_judge():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    teaching, judging = divide_by_class(labels, keys(8), 0.5)
    assert judging.tolist() == [0, 1, 4, 5]
    assert teaching.tolist() == [2, 3, 6, 7]


def test_odd_classes_take_turns():
    labels = torch.arange(5).repeat_interleave(3)  # 1.5 of each: 1, 2, 1, 2, 1
    _, judging = divide_by_class(labels, keys(15), 0.5)
    assert labels[judging].bincount().tolist() == [1, 2, 1, 2, 1]
    _, judging = divide_by_class(torch.arange(5), keys(5), 0.5)  # one of each
    assert judging.tolist() == [1, 3]


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=80),
    share=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.75]),
)
def test_each_class_is_divided_to_within_one_image(labels, share):
    teaching, judging = divide_by_class(torch.tensor(labels), keys(len(labels)), share)
    assert sorted([*teaching.tolist(), *judging.tolist()]) == list(range(len(labels)))
    assert len(judging) == int(share * len(labels) + 1e-9)
    for label in set(labels):
        judged = sum(labels[place] == label for place in judging.tolist())
        assert abs(judged - share * labels.count(label)) < 1 + 1e-9


def test_copies_are_on_one_side_whatever_they_are_called():
    same = [b"a", b"b", b"a", b"c", b"b", b"d"]
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    teaching, judging = divide_by_class(labels, same, 0.5)
    assert judging.tolist() == [0, 1, 2, 4]
    assert teaching.tolist() == [3, 5]


def test_what_teaches_and_what_judges_are_all_and_apart(labelled):
    teaching, judging = shown(opened(labelled)), shown(opened(labelled, split="held_out"))
    assert teaching | judging == set(range(30))
    assert teaching & judging == set()
    assert torch.tensor(sorted(judging)).remainder(3).bincount().tolist() == [5, 5, 5]


def test_the_split_depends_on_its_own_seed_and_not_on_that_of_the_run(labelled):
    def judging(seed: int, **fields: int) -> set[int]:
        place = tiny.context(split="held_out")
        return shown(Few(data=labelled, **fields).open(place, None, tiny.rng(seed)))

    assert judging(0) == judging(1)
    assert judging(0) != judging(0, split_seed=1)


def test_more_images_leave_the_order_of_the_others(tmp_path):
    """Where an image stands among those of its class is a matter of itself and the seed."""
    few = written(tmp_path / "few.npz", 30)
    more = written(tmp_path / "more.npz", 60)
    one, other = (shown(opened(name, split="held_out"), 30) for name in (few, more))
    assert len(one & other) > 10


def test_labels_are_handed_on_only_where_asked_and_divide_in_any_case(labelled):
    bare, told = opened(labelled).draw(3, None), opened(labelled, labels=True).draw(3, None)
    assert bare.labels is None
    assert torch.equal(told.labels, told.index % 3)
    assert torch.equal(bare.images, told.images)


def test_without_labels_half_judge_by_what_the_teacher_says(bare):
    assert len(shown(opened(bare))) == len(shown(opened(bare, split="held_out"))) == 10
    assert Few(data=bare).evaluation_data(tiny.CONTRACT) is None
    with pytest.raises(ValueError, match="has no labels; set labels to false"):
        opened(bare, labels=True)


def test_accuracy_is_measured_on_what_judges_and_has_an_interval(labelled):
    few = Few(data=labelled)
    part = few.evaluation_data(tiny.CONTRACT)
    assert set(part.places.tolist()) == shown(opened(labelled, split="held_out"))
    told = evaluate(Network(tiny.network(0), tiny.CONTRACT), part)
    low, high = told.interval()
    assert told.count == 15
    assert low <= told.accuracy <= high
    assert high - low > 0.2


def test_all_may_teach_and_none_then_judges(labelled):
    assert len(shown(opened(labelled, held_out=0.0))) == 30
    assert Few(data=labelled, held_out=0.0).evaluation_data(tiny.CONTRACT) is None
    with pytest.raises(ValueError, match=r"held_out is 0, so no image of .* is held out; raise it"):
        opened(labelled, held_out=0.0, split="held_out")


def test_nine_are_too_few_and_501_are_no_few(tmp_path):
    for count, way_out in ((9, "add images"), (501, "--transfer")):
        path = written(tmp_path / f"{count}.npz", count)
        with pytest.raises(
            ValueError, match=f"has {count} images, but few needs 10 to 500; .*{way_out}"
        ):
            opened(path)
    assert len(opened(written(tmp_path / "10.npz", 10))) == 5


def test_a_share_that_is_no_image_is_refused(labelled):
    with pytest.raises(ValueError, match=r"0\.01 of 30 distinct images is 0; raise it"):
        opened(labelled, held_out=0.01)
    with pytest.raises(ValueError, match=r"held_out must be in \[0, 1\), got 1"):
        Few(data=labelled, held_out=1.0)


def test_they_are_shown_shifted_ever_anew(labelled):
    stream = shown_few(Few(data=labelled), tiny.CONTRACT).open(tiny.context(), None, tiny.rng())
    plain = opened(labelled)
    assert all(
        not torch.equal(stream.draw(step, None).images, plain.draw(step, None).images)
        for step in range(4)
    )


def test_they_are_starts_of_inversion_and_part_of_the_mix(labelled):
    starts = Combined(sources=(Few(data=labelled), Shaders()), shares=(0.5, 0.5))
    inverted = Replay(source=ShortInversion(source=starts, iterations=2), first=1)
    source = Combined(sources=(inverted, Few(data=labelled)), shares=(0.75, 0.25))
    teacher = tiny.network(0).eval()
    batch = source.open(tiny.context(), teacher, tiny.rng()).draw(0, tiny.network(1))
    assert batch.images.shape == (8, 1, 8, 8)
    assert batch.labels is None


def test_agreement_is_measured_on_what_judges(labelled):
    stage = Stage(source=Few(data=labelled), objective=SoftTargets(), fit=tiny.settings())
    networks = (Network(tiny.network(seed), tiny.CONTRACT) for seed in (0, 1))
    told = answer_held_out(stage, 0, *networks, count=60)
    assert len(told.student) == told.distinct == 15
    assert told.on == "real images, those of the few that judge"


def test_beside_optimised_images_agreement_is_measured_on_what_judges_too(labelled):
    few = Few(data=labelled)
    sources = (Replay(source=ShortInversion(iterations=1), first=1), few)
    mix = Combined(sources=sources, shares=(0.5, 0.5))
    stage = Stage(source=mix, objective=SoftTargets(), fit=tiny.settings())
    networks = (Network(tiny.network(seed), tiny.CONTRACT) for seed in (0, 1))
    told = answer_held_out(stage, 0, *networks)
    expected = few.held_out_images(tiny.CONTRACT)
    assert torch.equal(
        told.images.sort(0).values, (expected.images(range(15)) / 255).sort(0).values
    )


def test_where_all_teach_agreement_is_measured_as_without_them(labelled):
    stage = Stage(
        source=Few(data=labelled, held_out=0.0), objective=SoftTargets(), fit=tiny.settings()
    )
    networks = (Network(tiny.network(seed), tiny.CONTRACT) for seed in (0, 1))
    told = answer_held_out(stage, 0, *networks, count=8)
    assert told.on.startswith("shader images of a fixed set; nothing of the transfer set")
