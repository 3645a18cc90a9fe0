# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Stop strings end a text, and no part of one is shown before that is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime.stop import StopFilter, stop_strings

LETTERS = st.text("abc", max_size=30)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


def run(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    stop, shown = StopFilter(stops), []
    for piece in pieces:
        shown.append(stop.push(piece))
        if stop.stopped:
            return shown, True
    return [*shown, stop.flush()], False


@given(text=LETTERS, stops=STOPS)
def test_a_text_ends_before_the_stop_that_is_complete_first(text, stops):
    """Letter by letter, as the definition has it."""
    shown, stopped = run(stops, list(text))
    ends = [(at, text[:at]) for at in range(1, len(text) + 1) if any(text[:at].endswith(s) for s in stops)]
    if not ends:
        assert not stopped and "".join(shown) == text
        return
    whole = ends[0][1]
    begun = min(at for s in stops if (at := whole.find(s)) >= 0)
    assert stopped and "".join(shown) == whole[:begun]


@given(text=LETTERS, stops=STOPS, cuts=st.sets(st.integers(1, 29)))
def test_nothing_of_a_stop_is_shown_and_no_more_is_held_back_than_may_be_one(text, stops, cuts):
    edges = [0, *sorted(c for c in cuts if c < len(text)), len(text)]
    stop, shown, read = StopFilter(stops), "", ""
    for start, end in pairwise(edges):
        shown, read = shown + stop.push(text[start:end]), text[:end]
        if stop.stopped:
            assert any(read.startswith(shown + s) for s in stops) and not any(s in shown for s in stops)
            assert stop.push("more") == ""
            return
        held = read[len(shown) :]
        assert read.startswith(shown)
        assert not held or any(s.startswith(held) and s != held for s in stops)
    assert shown + stop.flush() == text


def test_what_users_give():
    assert stop_strings(None) == () and stop_strings("ab") == ("ab",) and stop_strings(["a", "b"]) == ("a", "b")
    for wrong in ("", ["a", ""], 5, [5], {"a"}, b"a"):
        with pytest.raises(
            ElasticError, match=r"^stop: .* is not allowed; a text, or a list of texts, none of them empty$"
        ):
            stop_strings(wrong)
