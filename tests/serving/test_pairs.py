# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where the thinking of a pair ends, and who goes on then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nemo_elastic.data.build import train_tokenizer
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.serving.names import Choice
from nemo_elastic.serving.pairs import Pairs, check_ends, find_end, is_over, read_budget


def thinker(*tokens: str) -> FamilyTokenizer:
    tokenizer = train_tokenizer(["some words of a text " * 9], 280)
    tokenizer.add_tokens(list(tokens))
    return FamilyTokenizer(tokenizer)


def test_the_end_is_seen_when_it_is_said():
    one, two = (7,), (7, 8)
    assert not is_over(one, [1, 2], 1, None) and is_over(one, [1, 7], 1, None)
    assert not is_over(one, [7, 1], 1, None), "it was said before"
    assert is_over(one, [7, 1], 2, None)
    assert not is_over(two, [1, 7], 1, None) and is_over(two, [1, 7, 8], 1, None) and not is_over(two, [8], 1, None)
    assert is_over(two, [7, 8, 9], 2, None), "several tokens may come at once"
    assert not is_over(two, [7, 8, 9], 1, None)


def test_a_budget_ends_it_too():
    assert is_over((), [1, 2, 3], 1, 3) and not is_over((), [1, 2], 1, 3)
    assert not is_over((), [1] * 1000, 1, None)
    assert is_over((7,), [7], 1, 3)


def asked(name: str, **extra: Any) -> Any:
    return SimpleNamespace(
        request_id=name, output_token_ids=[], sampling_params=SimpleNamespace(extra_args=extra or None)
    )


def step(pairs: Pairs, requests: dict[str, Any], said: dict[str, list[int]], gone: tuple[str, ...] = ()) -> Any:
    """With which requests another member goes on behind a step in which some get tokens, and some are gone."""
    pairs.before_update(None, requests)
    for name, tokens in said.items():
        requests[name].output_token_ids += tokens
    for name in gone:
        del requests[name]
        pairs.forget(name)
    return pairs.after_update([], requests.get)


def test_the_second_member_goes_on_where_the_thinking_ends():
    pairs, requests = Pairs((7,)), {name: asked(name) for name in ("one", "pair", "other")}
    requests["short"] = asked("short", thinking_token_budget=2)
    for name, request in requests.items():
        pairs.take(request, Choice("6b") if name == "one" else Choice("6b", "12b"))
    assert step(pairs, requests, {"one": [7], "pair": [1], "short": [1]}) == {}
    assert step(pairs, requests, {"one": [7], "pair": [3, 7, 4], "short": [1]}) == {"pair": "12b", "short": "12b"}
    assert step(pairs, requests, {"pair": [7]}) == {}, "it goes over once"
    assert step(pairs, requests, {"other": [7]}, gone=("other",)) == {}


def test_the_usual_end_is_taken_where_it_is_a_token():
    family = thinker("<think>", "</think>")
    assert find_end(family) == (family.tokenizer.token_to_id("</think>"),)
    assert find_end(thinker()) == ()


def test_a_pair_needs_an_end():
    check_ends((7,), None, "6b>12b")
    check_ends((), 4, "6b>12b")
    with pytest.raises(ElasticError, match=r"^model: '6b>12b'"):
        check_ends((), None, "6b>12b")


def test_budgets():
    assert read_budget(None) is None and read_budget({}) is None and read_budget({"thinking_token_budget": 5}) == 5
    for wrong in (0, 1.5, "5"):
        with pytest.raises(ElasticError, match=r"^thinking_token_budget: "):
            read_budget({"thinking_token_budget": wrong})
