import pytest

from doublure.tasks.translation.parallel_text import (
    by_length,
    contract_of,
    names_text,
    open_text,
    padded,
    target_tokens,
)
from tests import text


@pytest.fixture
def folder(tmp_path):
    text.write_text(tmp_path / "set", 20)
    return text.write_text(tmp_path / "set", 7, stem="val", seed=1)


def test_the_part_asked_for_is_opened_in_the_direction_said(folder):
    train = open_text(f"{folder}:de-en")
    assert len(train) == 20
    assert train.sources[0].split()[0].lower() in text.WORDS
    assert len(open_text(folder, split="test", languages=("de", "en"))) == 7
    turned = open_text(f"{folder}:en-de")
    assert turned.sources == train.targets


def test_a_test_set_goes_before_a_validation_set_and_two_are_not_chosen_between(folder):
    text.write_text(folder, 3, stem="test_2016")
    assert len(open_text(f"{folder}:de-en", split="test")) == 3
    text.write_text(folder, 4, stem="test_2017")
    with pytest.raises(ValueError, match=r"several sets to test on; name one: .*test_2016"):
        open_text(f"{folder}:de-en", split="test")
    assert len(open_text(f"{folder / 'test_2017'}:de-en", split="test")) == 4


def test_text_is_told_from_images_without_reading(folder, tmp_path):
    assert names_text(folder)
    assert names_text(f"{folder}:de-en")
    assert names_text(folder / "train")
    assert not names_text("builtin/digits")
    assert not names_text("builtin/digits:train")
    assert not names_text(tmp_path)


def test_the_direction_must_be_said_once(folder):
    with pytest.raises(ValueError, match=r"say what is translated into what: .*:de-en or .*:en-de"):
        open_text(folder)
    with pytest.raises(ValueError, match="asks for en-de, but the network translates de-en"):
        open_text(f"{folder}:en-de", languages=("de", "en"))


def test_sides_of_different_length_are_refused_with_both(folder):
    with (folder / "train.en").open("a") as file:
        file.write("more\n")
    with pytest.raises(ValueError, match=r"train\.de has 20 lines, .*train\.en has 21"):
        open_text(f"{folder}:de-en")


def test_a_pair_with_an_empty_side_is_left_out_and_counted(folder):
    for language, line in (("de", "\n"), ("en", "x\n")):
        with (folder / f"train.{language}").open("a") as file:
            file.write(line)
    opened = open_text(f"{folder}:de-en")
    assert len(opened) == 20
    assert "1 pairs with an empty side" in opened.notes[0]


def test_a_folder_of_something_else_says_what_it_should_hold(tmp_path):
    with pytest.raises(ValueError, match="holds no parallel text to train on"):
        open_text(f"{tmp_path}:de-en")


@text.needs_extra
def test_a_contract_spells_the_text_it_was_learned_from(folder):
    opened = open_text(f"{folder}:de-en")
    contract = contract_of(opened, 50)
    assert contract.languages == ("de", "en")
    assert len(contract.target) <= 50
    assert contract_of(opened, 50) == contract
    rows = target_tokens(opened.targets, contract)
    assert tuple(contract.text(row) for row in rows) == opened.targets


def test_rows_are_padded_behind_and_batched_by_length():
    assert padded([[5, 2], [2]]).tolist() == [[5, 2], [2, 0]]
    rows = [[1] * n for n in (3, 1, 2, 5)]
    assert [*by_length(rows, 2)] == [[1, 2], [0, 3]]
