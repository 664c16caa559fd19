import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doublure.core.optional import MissingExtraError
from doublure.tasks.translation.contract import END, MARKS, SPACE, UNKNOWN
from doublure.tasks.translation.vocabulary import Tokenizer, learn_pieces
from tests import text

LINES = ("low low low low low", "lower lower", "newest newest newest newest newest newest", "wider")
LETTERS = "deilnorstw"


@text.needs_extra
def test_marks_come_first_then_characters_then_what_is_most_often_together():
    pieces = learn_pieces(LINES, 30)
    assert pieces[:4] == MARKS
    assert pieces[4:15] == (*LETTERS, SPACE)
    # By hand: w and e are neighbours 8 times, in newest and lower; no other pair more than 7.
    assert pieces[15] == "we"


@text.needs_extra
def test_words_keep_the_space_in_front_and_marks_stand_alone():
    lines = ["A dog's  bone, (here)."] * 3
    pieces = learn_pieces(lines, 99)
    tokens = Tokenizer(pieces).tokens(lines[0], 99)
    words = [
        f"{SPACE}A",
        f"{SPACE}dog",
        "'",
        "s",
        f"{SPACE}bone",
        ",",
        SPACE,
        "(",
        "here",
        ")",
        ".",
    ]
    assert [pieces[token] for token in tokens[:-1]] == words


@text.needs_extra
def test_too_few_pieces_for_the_alphabet_are_refused():
    with pytest.raises(ValueError, match="pieces must be at least 15 to spell every"):
        learn_pieces(LINES, 6)


@text.needs_extra
def test_the_same_sentences_give_the_same_pieces_in_any_process():
    code = "import sys; from doublure.tasks.translation.vocabulary import learn_pieces as learn;"
    code += f"sys.stdout.reconfigure(encoding='utf-8'); print(learn({LINES!r}, 40))"
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        made = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            check=True,
        )
        assert made.stdout.decode().strip() == str(learn_pieces(LINES, 40))


@text.needs_extra
@given(st.lists(st.sampled_from(["low", "lower", "newest", "wider", "new", "west"]), max_size=9))
def test_pieces_spell_every_word_of_their_letters_and_nothing_is_lost(words):
    pieces = learn_pieces(LINES, 40)
    tokens = Tokenizer(pieces).tokens(" ".join(words), 99)
    assert tokens[-1] == END
    assert UNKNOWN not in tokens
    spelled = "".join(pieces[token] for token in tokens[:-1])
    assert spelled.replace(SPACE, " ").split() == words


@text.needs_extra
def test_the_earliest_piece_is_made_first():
    pieces = (*MARKS, SPACE, "a", "b", "c", "bc", "ab", "abc")
    assert [pieces[token] for token in Tokenizer(pieces).tokens("abc", 99)] == [
        SPACE,
        "abc",
        "</s>",
    ]
    # Behind another c, b and c are one piece before a and b can be.
    fewer = pieces[:-1]
    assert [fewer[token] for token in Tokenizer(fewer).tokens("abc", 99)] == [
        SPACE,
        "a",
        "bc",
        "</s>",
    ]


@text.needs_extra
def test_unknown_characters_are_unknown_one_by_one_and_marks_are_no_tokens():
    pieces = (*MARKS, SPACE, "a", "b", "ab", f"{SPACE}ab")
    spelled = [pieces[token] for token in Tokenizer(pieces).tokens("abab zzab <pad>", 99)]
    unknown = "<unk>"
    tail = [SPACE, unknown, unknown, "a", unknown, unknown]
    assert spelled == [f"{SPACE}ab", "ab", SPACE, unknown, unknown, "ab", *tail, "</s>"]


@text.needs_extra
def test_what_is_too_long_is_cut_and_still_ends():
    tokens = Tokenizer((*MARKS, SPACE, "a")).tokens("aaaa", 3)
    assert len(tokens) == 3
    assert tokens[-1] == END


@text.needs_extra
def test_nothing_said_is_an_end():
    assert Tokenizer((*MARKS, SPACE, "a")).tokens("  ", 3) == [END]


def test_without_the_library_the_way_to_add_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"tokenizers .*; pip install tokenizers sacrebleu"):
        learn_pieces(LINES, 30)
    with pytest.raises(MissingExtraError, match="tokenizers"):
        Tokenizer(MARKS)
