import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.data.vocabulary import Speller, learn_pieces, words_of
from understudy.protocols import END, MARKS, SPACE, UNKNOWN

LINES = ("low low low low low", "lower lower", "newest newest newest newest newest newest", "wider")


def test_words_keep_the_space_in_front_and_marks_stand_alone():
    assert words_of("A dog's  bone, here.") == [
        f"{SPACE}A",
        f"{SPACE}dog",
        "'",
        "s",
        f"{SPACE}bone",
        ",",
        f"{SPACE}here",
        ".",
    ]


def test_marks_come_first_then_characters_by_frequency_then_merges():
    pieces = learn_pieces(LINES, 30)
    assert pieces[:4] == MARKS
    letters = [piece for piece in pieces[4:] if len(piece) == 1]
    assert letters[0] == "e"  # 15 of them; 14 spaces
    assert pieces[4 : 4 + len(letters)] == tuple(letters)
    # By hand: w and e are neighbours 8 times, in newest and lower; no other pair more than 7.
    assert pieces[4 + len(letters)] == "we"


def test_merging_counts_again_what_a_merge_left():
    """Pairs of "ab ab abc", by hand: space-a 3 and a-b 3; then the merged with b."""
    pieces = learn_pieces(["ab ab abc"], 100)
    assert pieces[len(MARKS) :] == (
        *sorted([SPACE, "a", "b"]),
        "c",
        "ab",
        f"{SPACE}ab",
        f"{SPACE}abc",
    )


def test_too_few_pieces_for_the_alphabet_are_refused():
    with pytest.raises(ValueError, match="pieces must be at least"):
        learn_pieces(LINES, 6)


@given(st.lists(st.sampled_from(["low", "lower", "newest", "wider", "new", "west"]), max_size=9))
def test_pieces_spell_every_word_of_their_letters_and_nothing_is_lost(words):
    pieces = learn_pieces(LINES, 40)
    tokens = Speller(pieces).tokens(" ".join(words), 99)
    assert tokens[-1] == END
    assert UNKNOWN not in tokens
    spelled = "".join(pieces[token] for token in tokens[:-1])
    assert spelled.replace(SPACE, " ").split() == words


def test_the_longest_piece_is_taken_and_unknown_letters_are_said_to_be_so():
    pieces = (*MARKS, SPACE, "a", "b", "ab", f"{SPACE}ab")
    tokens = Speller(pieces).tokens("abab zab", 99)
    spelled = [pieces[token] for token in tokens]
    assert spelled == [f"{SPACE}ab", "ab", SPACE, "<unk>", "ab", "</s>"]


def test_what_is_too_long_is_cut_and_still_ends():
    tokens = Speller((*MARKS, SPACE, "a")).tokens("aaaa", 3)
    assert len(tokens) == 3
    assert tokens[-1] == END
