"""Sentences, the student's own and the teacher's: the promises of every source, for text."""

import copy

import pytest
import torch

from doublure.core.seeding import from_seed
from doublure.nets.network import freeze
from doublure.objectives.soft_targets import SoftTargets
from doublure.recipe_file import from_toml, to_toml
from doublure.tasks.translation.contract import OWN_SENTENCES, PAD
from doublure.tasks.translation.decoding import beam_search, prefix_of, translate
from doublure.tasks.translation.on_policy import OnPolicy
from doublure.tasks.translation.sentences import Sentences, batches_of
from doublure.tasks.translation.sequence_level import SequenceLevel
from tests import text, tiny
from tests.test_contracts import assert_same, saved, standing

pytestmark = text.needs_extra
KINDS = ("sentences", "on-policy", "sequence-level")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return text.write_text(tmp_path_factory.mktemp("text"), 80)


@pytest.fixture(scope="module")
def contract(folder):
    return text.contract(folder)


@pytest.fixture
def table(folder):
    plain = Sentences(data=str(folder), held_out=0.2)
    return {
        "sentences": plain,
        "on-policy": OnPolicy(source=plain),
        "sequence-level": SequenceLevel(source=plain, share=0.7, beams=2),
    }


@pytest.fixture(params=KINDS)
def source(request, table):
    return table[request.param]


def opened(source, contract, *, seed=0, **context):
    teacher = freeze(text.network(contract, 5))
    return source.open(text.context(contract, **context), teacher, from_seed(seed))


def drawn(stream, contract, *steps):
    student = text.network(contract, 1)
    return [stream.draw(step, student) for step in steps]


def told(batches):
    return [(b.views["student"]["source"], b.labels, b.index) for b in batches]


def same(one, other):
    return all(
        a.shape == b.shape and torch.equal(a, b)
        for left, right in zip(told(one), told(other), strict=True)
        for a, b in zip(left, right, strict=True)
    )


def test_the_same_seed_shows_the_same_and_another_seed_another(source, contract):
    expected = drawn(opened(source, contract), contract, *range(4))
    assert same(drawn(opened(source, contract), contract, *range(4)), expected)
    assert not same(drawn(opened(source, contract, seed=1), contract, *range(4)), expected)


def test_torchs_global_generator_neither_matters_nor_moves(source, contract):
    expected = drawn(opened(source, contract), contract, 0, 1, 2)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert same(drawn(opened(source, contract), contract, 0, 1, 2), expected)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_stream_goes_on_from_its_state_alone(source, contract):
    stream = opened(source, contract)
    drawn(stream, contract, *range(5))
    kept = saved(stream.state_dict())
    expected = drawn(stream, contract, 5, 6, 7)
    again = opened(source, contract)
    again.load_state_dict(kept)
    assert same(drawn(again, contract, 5, 6, 7), expected)


def test_neither_teacher_nor_student_change(source, contract):
    teacher, student = freeze(text.network(contract, 5)), text.network(contract, 1)
    tokens = torch.tensor([[4, 2]])
    student({"source": tokens, "prefix": prefix_of(tokens)}).sum().backward()
    student.body.encoder.eval()
    before = copy.deepcopy((standing(teacher), standing(student)))
    stream = source.open(text.context(contract), teacher, from_seed(0))
    for step in range(4):
        stream.draw(step, student)
    assert_same(before, (standing(teacher), standing(student)))


def test_both_networks_see_what_precedes_each_label(source, contract):
    for batch in drawn(opened(source, contract), contract, *range(4)):
        view = batch.views["student"]
        assert batch.views["teacher"] is view
        assert torch.equal(view["prefix"], prefix_of(batch.labels))
        assert torch.equal(batch.mask, batch.labels != PAD)
        assert (batch.labels[:, 0] != PAD).all()


def test_held_out_sentences_are_none_of_those_trained_on(source, contract):
    train = drawn(opened(source, contract), contract, *range(12))
    held = drawn(opened(source, contract, split="held_out"), contract, *range(4))
    places = [{place for b in part for place in b.index.tolist()} for part in (train, held)]
    assert not places[0] & places[1]


def test_processes_share_an_epoch(table, contract):
    source = table["sentences"]
    parts = [
        drawn(opened(source, contract, rank=rank, world=2), contract, *range(3)) for rank in (0, 1)
    ]
    shown = [place for part in parts for b in part for place in b.index.tolist()]
    assert len(set(shown)) == len(shown)


def test_settings_survive_a_recipe_file(source):
    recipe = tiny_recipe(source)
    assert from_toml(to_toml(recipe)) == recipe


def tiny_recipe(source):
    from tests.test_contracts import as_recipe

    return as_recipe(source, SoftTargets())


def test_an_epoch_shows_every_sentence_at_most_once_and_the_next_in_another_order(table, contract):
    stream = opened(table["sentences"], contract)
    batches = drawn(stream, contract, *range(20))
    places = [place for batch in batches for place in batch.index.tolist()]
    epoch = len(stream._places) // 6
    first, second = places[: 6 * epoch], places[6 * epoch : 12 * epoch]
    assert len(set(first)) == 6 * epoch
    assert first != second


def test_sentences_of_a_batch_are_of_like_length():
    lengths = torch.randint(1, 40, (600,), generator=from_seed(0))
    order = torch.randperm(600, generator=from_seed(1))
    batches = batches_of(order, lengths, 6, torch.rand(100, generator=from_seed(2)))
    assert batches.shape == (100, 6)
    assert sorted(batches.flatten().tolist()) == list(range(600))
    spread = lengths[batches].float().std(1).mean()
    assert spread < 0.3 * lengths[order.view(100, 6)].float().std(1).mean()


def test_a_set_smaller_than_a_batch_fills_it(table, contract, tmp_path):
    small = Sentences(data=str(text.write_text(tmp_path, 4)), held_out=0.0)
    (batch,) = drawn(opened(small, contract, batch_size=10), contract, 0)
    assert len(batch.labels) == 10


def test_a_share_of_the_batches_is_the_students_own(table, contract):
    stream, student = opened(table["on-policy"], contract), text.network(contract, 1)
    plain = opened(table["sentences"], contract)
    batches = [stream.draw(step, student) for step in range(40)]
    own = [bool(batch.metrics[OWN_SENTENCES]) for batch in batches]
    assert 10 <= sum(own) <= 30
    assert isinstance(plain, type(stream.inner))
    for is_own, batch in zip(own, batches, strict=True):
        corpus = batch_of_corpus(stream, batch)
        assert torch.equal(batch.labels, corpus) != is_own


def batch_of_corpus(stream, batch):
    from doublure.tasks.translation.parallel_text import padded

    return padded([stream.inner._targets[place] for place in batch.index.tolist()])


def test_the_student_samples_as_it_is_now_without_dropout(table, contract):
    source = OnPolicy(source=table["sentences"], share=1.0)
    one, other = text.network(contract, 1), text.network(contract, 2)
    labels = [opened(source, contract).draw(0, student).labels for student in (one, one, other)]
    assert torch.equal(labels[0], labels[1])  # in training mode, where dropout would tell
    assert labels[0].shape != labels[2].shape or not torch.equal(labels[0], labels[2])


def test_own_sentences_need_a_student(table, contract):
    source = OnPolicy(source=table["sentences"], share=1.0)
    with pytest.raises(ValueError, match="give a student"):
        opened(source, contract).draw(0, None)


def test_the_teachers_sentences_are_its_best_ones(table, contract):
    teacher = freeze(text.network(contract, 5))
    for beams in (1, 3):
        source = SequenceLevel(source=table["sentences"], beams=beams)
        stream = source.open(text.context(contract), teacher, from_seed(0))
        batch = stream.draw(0, None)
        asked = batch.views["teacher"]["source"]
        expected = beam_search(teacher, asked, 64, beams)
        if beams == 1:
            expected = translate(teacher, asked, 64)
        width = batch.labels.shape[1]
        assert torch.equal(batch.labels, expected[:, :width])
        assert (expected[:, width:] == PAD).all()


def test_a_sentence_is_translated_once(table, contract, monkeypatch):
    from doublure.tasks.translation import sequence_level

    asked = []

    def counted(network, source, longest):
        asked.append(len(source))
        return translate(network, source, longest)

    monkeypatch.setattr(sequence_level, "translate", counted)
    stream = opened(SequenceLevel(source=table["sentences"], beams=1), contract)
    drawn(stream, contract, *range(60))
    assert sum(asked) <= 80


def test_images_are_told_that_sentences_are_not_for_them(table):
    with pytest.raises(ValueError, match="not for images"):
        table["sentences"].open(tiny.context(), None, from_seed(0))
