# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An answer while it is decoded: pieces of text or whole tokens, up to a stop, for each prompt of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.runtime.answer import Answer, Stream
from nemo_elastic.runtime.tokenizer import FamilyTokenizer
from tests.runtime.talking import TOKENIZER

TEXT = FamilyTokenizer(TOKENIZER)
END = 1
ENDS = frozenset({END})


def ids(text: str) -> list[int]:
    return TEXT.encode(text, special=False)


def answer(stops: Sequence[str] = (), as_text: bool = True) -> Answer:
    return Answer(TEXT, stops, ENDS, as_text)


def pushed(one: Answer, tokens: Sequence[int]) -> list[Any]:
    out: list[Any] = []
    for i, token in enumerate(tokens):
        out += one.push(token, last=i == len(tokens) - 1)
        if one.stopped:
            break
    return out


@given(st.text("abß𝄞 ", min_size=1, max_size=12))
def test_pieces_are_the_text_in_whole_characters(text: str) -> None:
    pieces = pushed(answer(), [*ids(text), END])
    assert "".join(pieces) == text and all(pieces) and not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_given_when_no_more_can_come() -> None:
    half = ids("𝄞")[:2]
    assert answer().push(half[0], last=False) == []
    assert "\ufffd" in "".join(pushed(answer(), half))


def test_a_stop_string_ends_it_and_no_part_of_it_is_shown() -> None:
    one = answer(["xyz"])
    assert "".join(pushed(one, [*ids("abxyzcd"), END])) == "ab" and one.stopped


def test_what_may_be_a_stop_is_held_back_until_it_is_none() -> None:
    one = answer(["xyz"])
    assert "".join(pushed(one, [*ids("abxy"), END])) == "abxy" and not one.stopped


def test_tokens_come_when_all_of_their_text_is_safe() -> None:
    one, (x, y, a) = answer(["xyz"], as_text=False), ids("x") + ids("y") + ids("a")
    assert [one.push(t, last=False) for t in (x, y)] == [[], []]
    assert one.push(a, last=False) == [x, y, a]


def test_tokens_of_a_stop_string_do_not_come() -> None:
    one = answer(["xyz"], as_text=False)
    assert pushed(one, [*ids("ab"), *ids("xyz"), *ids("c")]) == ids("ab") and one.stopped


def test_the_token_that_ends_an_answer_comes_behind_all_others() -> None:
    assert pushed(answer(["xyz"], as_text=False), [*ids("abxy"), END]) == [*ids("abxy"), END]


@given(st.lists(st.integers(2, 299), min_size=1, max_size=20))
def test_every_token_comes_where_nothing_stops_it(tokens: list[int]) -> None:
    assert pushed(answer(["\0nothing"], as_text=False), tokens) == tokens


def test_without_a_tokenizer_tokens_pass_through() -> None:
    one = Answer(None, (), ENDS, as_text=False)
    assert pushed(one, [7, END, 9]) == [7, END, 9]


class Script:
    """Decoding that says what it was given, step by step: prompt -> token."""

    def __init__(self, *steps: dict[int, int]) -> None:
        self.steps, self.ended = steps, set[int]()

    def end(self, prompt: int) -> None:
        self.ended.add(prompt)

    def __iter__(self) -> Iterator[dict[int, int]]:
        for at, step in enumerate(self.steps, 1):
            goes_on = {i: token for i, token in step.items() if i not in self.ended}
            if at == len(self.steps):
                self.ended |= set(goes_on)
            yield goes_on


def stream(script: Any, answers: list[Answer], single: bool = False) -> Stream:
    return Stream(script, [[3, 3], [3]][: len(answers)], answers, single)


def test_a_batch_gives_the_number_of_the_prompt_with_every_piece() -> None:
    found = stream(Script({0: 5, 1: 6}, {0: 7, 1: 8}), [Answer(None, (), ENDS, False) for _ in "ab"])
    assert list(found) == [(0, 5), (1, 6), (0, 7), (1, 8)]
    assert (found.prompt_tokens, found.new_tokens) == ([2, 1], [2, 2])


def test_one_prompt_gives_pieces_alone() -> None:
    assert list(stream(Script({0: 5}, {0: 7}), [Answer(None, (), ENDS, False)], single=True)) == [5, 7]


def test_a_stop_string_lets_the_decoding_end_that_prompt_only() -> None:
    a, x = ids("a")[0], ids("x")[0]
    found = stream(Script({0: x, 1: a}, {0: a, 1: a}), [answer(["x"]), answer(["x"])])
    assert list(found) == [(1, "a"), (1, "a")] and found.new_tokens == [1, 2]


def test_closed_it_gives_nothing_more() -> None:
    found = stream(Script({0: 5}, {0: 7}), [Answer(None, (), ENDS, False)], single=True)
    assert next(found) == 5
    found.close()
    assert list(found) == [] and found.new_tokens == [1]


def test_the_share_of_accepted_drafts_is_that_of_all_prompts() -> None:
    found = stream(Script(), [answer(), answer()])
    assert found.acceptance is None
    found.drafted, found.accepted = [6, 2], [3, 1]
    assert found.acceptance == pytest.approx(0.5)
