import re

import matplotlib
from matplotlib.axes import Axes

from doublure.reports.svg import INK, STUDENT, draw_svg, per_cent_axis


def plot(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], "o-", color=STUDENT)
    axes.text(0, 0, "url(#here", color=INK)
    per_cent_axis(axes.yaxis)


def test_a_chart_is_one_element_that_brings_nothing_from_outside():
    svg = draw_svg("plot", plot, 'a "plot"', 200)
    assert svg.startswith('<svg viewBox="0 0 375 200" role="img" aria-label="a &quot;plot&quot;">')
    assert "http" not in svg
    assert "<style" not in svg
    assert svg.rstrip().endswith("</svg>")


def test_ids_are_the_charts_own():
    svg = draw_svg("plot", plot, "a plot", 200)
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert ids
    assert all(found.startswith("plot-") for found in ids)
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', svg)) <= {*ids, "here"}


def test_text_is_left_as_it_was_written():
    assert ">url(#here<" in draw_svg("plot", plot, "a plot", 200)


def test_colours_are_those_of_the_page():
    svg = draw_svg("plot", plot, "a plot", 200)
    assert "var(--student)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_a_users_own_style_does_not_reach_the_chart_nor_the_chart_the_user():
    before = draw_svg("plot", plot, "a plot", 200)
    with matplotlib.rc_context({"lines.linewidth": 9.0, "axes.facecolor": "red"}):
        kept = dict(matplotlib.rcParams)
        assert draw_svg("plot", plot, "a plot", 200) == before
        assert dict(matplotlib.rcParams) == kept
