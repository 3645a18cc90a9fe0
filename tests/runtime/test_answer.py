# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pieces of an answer are whole characters, end before a stop string, and make the text of all tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.runtime.answer import Answer, stop_strings
from tests.runtime.talking import PARENT, TOKENIZER

TEXT = FamilyTokenizer(TOKENIZER)
END = 1
ENDS = frozenset({END})


def pushed(one: Answer, tokens: Sequence[int]) -> list[list[Any]]:
    """What comes out for each token, up to a stop."""
    out: list[list[Any]] = []
    for i, token in enumerate(tokens):
        out.append([*one.push(token, last=i == len(tokens) - 1)])
        if one.stopped:
            break
    return out


def all_of(one: Answer, tokens: Sequence[int]) -> list[Any]:
    return [piece for out in pushed(one, tokens) for piece in out]


def pieces(tokenizer: FamilyTokenizer, ids: list[int]) -> list[str]:
    return ["".join(out) for out in pushed(Answer(tokenizer, (), frozenset(), True), ids)]


@settings(deadline=None)
@given(st.text())
def test_pieces_of_a_text_are_the_text_in_whole_characters(text):
    actual = pieces(TEXT, TEXT.encode(text))
    assert "".join(actual) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in actual)


@settings(deadline=None)
@given(st.lists(st.integers(0, PARENT.vocab - 1), max_size=40))
def test_pieces_of_any_tokens_are_their_text(ids):
    """Bytes that make no character, special tokens, tokens that the tokenizer does not have."""
    assert "".join(pieces(TEXT, ids)) == TEXT.decode(ids)


def test_a_character_comes_when_its_last_byte_has_come():
    ids = TEXT.encode("zß𝄞", special=False)
    assert len(ids) == 7  # of no merge
    assert pieces(TEXT, ids) == ["z", "", "ß", "", "", "", "𝄞"]
    assert pieces(TEXT, ids[:-1])[-1] == "\ufffd"


def test_spaces_of_another_kind_of_decoder_stay():
    """One that writes a space before each word and drops the first of a text."""
    words = {"▁The": 0, "▁first": 1, "s": 2, "▁": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="▁"))
    tokenizer.decoder = decoders.Metaspace()
    ids = [0, 1, 2, 3, 0, 0, 1]
    family = FamilyTokenizer(tokenizer)
    assert "".join(pieces(family, ids)) == family.decode(ids) == "The firsts  The The first"


LETTERS = st.text("abc", max_size=30)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


class Spelled:
    """A tokenizer of these pieces, each a token."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def decode_stream(self) -> Callable[[int], str]:
        return self.pieces.__getitem__


def run(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    """What is shown after each piece, and whether a stop was found."""
    one = Answer(Spelled(pieces), stops, frozenset(), True)  # pyright: ignore[reportArgumentType]
    return ["".join(out) for out in pushed(one, range(len(pieces)))], one.stopped


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
    given = [text[start:end] for start, end in pairwise(edges)]
    out, stopped = run(stops, given)
    for n in range(1, len(out) + 1):
        shown, read = "".join(out[:n]), "".join(given[:n])
        assert read.startswith(shown)
        if stopped and n == len(out):
            assert any(read.startswith(shown + s) for s in stops) and not any(s in shown for s in stops)
        else:
            held = read[len(shown) :]
            assert not held or any(s.startswith(held) and s != held for s in stops)
    assert stopped or "".join(out) == text


def test_what_users_give():
    assert stop_strings(None) == () and stop_strings("ab") == ("ab",) and stop_strings(["a", "b"]) == ("a", "b")
    for wrong in ("", ["a", ""], [5], {"a"}):
        with pytest.raises(ElasticError, match=r"^stop: "):
            stop_strings(wrong)


def ids(text: str) -> list[int]:
    return TEXT.encode(text, special=False)


def answer(stops: Sequence[str] = (), as_text: bool = True) -> Answer:
    return Answer(TEXT, stops, ENDS, as_text)


def test_tokens_come_when_all_of_their_text_is_safe() -> None:
    one, (x, y, a) = answer(["xyz"], as_text=False), ids("x") + ids("y") + ids("a")
    assert [one.push(t, last=False) for t in (x, y)] == [[], []]
    assert one.push(a, last=False) == [x, y, a]


def test_tokens_of_a_stop_string_do_not_come() -> None:
    one = answer(["xyz"], as_text=False)
    assert all_of(one, [*ids("ab"), *ids("xyz"), *ids("c")]) == ids("ab") and one.stopped


def test_the_token_that_ends_an_answer_comes_behind_all_others() -> None:
    assert all_of(answer(["xyz"], as_text=False), [*ids("abxy"), END]) == [*ids("abxy"), END]


@given(st.lists(st.integers(2, 299), min_size=1, max_size=20))
def test_every_token_comes_where_nothing_stops_it(tokens: list[int]) -> None:
    assert all_of(answer(["\0nothing"], as_text=False), tokens) == tokens
