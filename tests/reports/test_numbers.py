import pytest
from hypothesis import given
from hypothesis import strategies as st

from doublure.reports import numbers


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0.0 %"),
        (0.964, "96.4 %"),
        (1.0, "100.0 %"),
        (0.99999, "> 99.9 %"),
        (0.0001, "< 0.1 %"),
    ],
)
def test_shares_are_written_as_per_cent(share: float, text: str):
    assert numbers.percent(share) == text


@given(st.floats(0, 1, exclude_max=True))
def test_nothing_short_of_all_is_written_as_all(share: float):
    assert numbers.percent(share) != "100.0 %"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (1, 12, "1/12 of"),
        (22706, 272474, "1/12 of"),
        (1, 2, "50 % of"),
        (0, 5, "0 % of"),
        (1000, 1001, "the same as"),
        (14, 10, "1.40 times"),
    ],
)
def test_ratios_are_written_in_words(part: float, whole: float, text: str):
    assert numbers.share_of(part, whole) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (94_512, "94.5 kB"), (999_960, "1.00 MB"), (2.5e9, "2.50 GB")],
)
def test_sizes_are_written_to_three_digits(number: float, text: str):
    assert numbers.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.234, "1.23 s"), (61, "1 min 1 s"), (7384, "2 h 3 min")]
)
def test_times_are_written_in_their_largest_units(seconds: float, text: str):
    assert numbers.duration(seconds) == text


def test_differences_carry_their_sign():
    assert numbers.points(-0.0123) == "−1.2 points"
    assert numbers.points(0.02) == "+2.0 points"


def test_one_thing_is_not_plural():
    assert numbers.plural(1, "image") == "1 image"
    assert numbers.plural(2000, "image") == "2,000 images"


def test_other_numbers_keep_four_digits():
    assert numbers.plain(1.23456) == "1.235"
    assert numbers.plain(123456) == "123,456"
    assert numbers.plain(2.4e-6) == "2.4e-06"
