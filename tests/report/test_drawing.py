# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A figure as an SVG in a page: the page's colours, text as text, no rules or names that leak out of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from nemo_elastic.report.drawing import house, inline, new_figure
from nemo_elastic.report.labels import halo
from nemo_elastic.report.palette import INK, LIGHT, PALETTE, PAPER


@pytest.fixture(autouse=True, scope="module")
def in_the_house() -> Iterator[None]:
    with house():
        yield


def picture(line: str = LIGHT["m1"]) -> Figure:
    figure = new_figure(4, 2)
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0.123456, 2, 1], color=line, marker="o")
    axes.bar([0, 1], [1, 2], color=PAPER, edgecolor=LIGHT["m2"], hatch="///")
    axes.text(0.5, 1, "over a line <&>", color=INK, path_effects=halo())
    return figure


@pytest.fixture(scope="module")
def drawn() -> str:
    return inline(picture(), "one", "A line & bars")


def test_colours_are_variables_of_the_page(drawn: str) -> None:
    assert "var(--m1)" in drawn and "var(--m2)" in drawn
    assert not re.search("|".join(light for light, _ in PALETTE.values()), drawn)


def test_a_colour_that_the_page_does_not_know_is_an_error() -> None:
    with pytest.raises(KeyError, match="#123456"):
        inline(picture("#123456"), "one", "")


def test_words_stay_words_and_are_escaped(drawn: str) -> None:
    texts = [e.text for e in ElementTree.fromstring(drawn).iter("text")]
    assert "over a line <&>" in texts and "<&>" not in drawn


def test_what_crosses_a_line_is_outlined_by_the_page(drawn: str) -> None:
    halos = [e for e in ElementTree.fromstring(drawn).iter() if e.get("class") == "halo"]
    assert [t.text for e in halos for t in e.iter("text")] == ["over a line <&>"]


def test_it_fills_its_place_and_says_what_it_shows(drawn: str) -> None:
    root = ElementTree.fromstring(drawn)
    assert root.tag == "svg" and root.attrib == {
        "viewBox": "0 0 288 144",
        "role": "img",
        "aria-label": "A line & bars",
    }
    assert not re.search(r"\sxmlns|<\w+:|matplotlib", drawn)


def test_nothing_in_it_is_a_rule_for_the_whole_page(drawn: str) -> None:
    assert [e.text for e in ElementTree.fromstring(drawn).iter("style") if e.text] == []


def test_pictures_of_one_page_do_not_share_ids(drawn: str) -> None:
    first, second = (set(re.findall(r' id="([^"]+)"', text)) for text in (drawn, inline(picture(), "two", "")))
    assert first and not first & second
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", drawn)) <= first


def test_it_is_the_same_every_time(drawn: str) -> None:
    assert inline(picture(), "one", "A line & bars") == drawn


def test_places_are_rounded_to_a_tenth_of_a_point(drawn: str) -> None:
    places = [v for e in ElementTree.fromstring(drawn).iter() for k in ("d", "x", "y") if (v := e.get(k))]
    assert places and not any(re.search(r"\.\d{2}", place) for place in places)


def test_the_figure_keeps_its_outlines_for_the_next_file() -> None:
    figure = picture()
    (text,) = figure.axes[0].texts
    inline(figure, "one", "")
    assert len(text.get_path_effects()) == 1
