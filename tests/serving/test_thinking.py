# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where the thinking of a pair ends."""

from __future__ import annotations

import pytest

from nemo_elastic.data.bpe import train_tokenizer
from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime.tokenizer import FamilyTokenizer
from nemo_elastic.serving.thinking import Thinking, check_ends, find_end, read_budget


def thinker(*tokens: str) -> FamilyTokenizer:
    tokenizer = train_tokenizer(["some words of a text " * 9], 280)
    tokenizer.add_tokens(list(tokens))
    return FamilyTokenizer(tokenizer)


def test_the_end_is_seen_when_it_is_said():
    one, two = Thinking((7,)), Thinking((7, 8))
    assert not one.over([1, 2], 1, None) and one.over([1, 7], 1, None)
    assert not one.over([7, 1], 1, None), "it was said before"
    assert one.over([7, 1], 2, None)
    assert not two.over([1, 7], 1, None) and two.over([1, 7, 8], 1, None) and not two.over([8], 1, None)
    assert two.over([7, 8, 9], 2, None), "several tokens may come at once"
    assert not two.over([7, 8, 9], 1, None)


def test_a_budget_ends_it_too():
    assert Thinking().over([1, 2, 3], 1, 3) and not Thinking().over([1, 2], 1, 3)
    assert not Thinking().over([1] * 1000, 1, None)
    assert Thinking((7,)).over([7], 1, 3)


def test_the_usual_end_is_taken_where_it_is_a_token():
    family = thinker("<think>", "</think>")
    assert find_end(family, None) == (family.tokenizer.token_to_id("</think>"),)
    assert find_end(thinker(), None) == ()
    assert find_end(family, "</think>") == find_end(family, None)
    assert len(find_end(family, "words of")) >= 1
    with pytest.raises(ElasticError, match=r"^--end-of-thinking: '' is not allowed"):
        find_end(family, "")


def test_a_pair_needs_an_end():
    check_ends((7,), None, "6b>12b")
    check_ends((), 4, "6b>12b")
    with pytest.raises(ElasticError, match="'6b>12b' needs thinking_token_budget, or a server"):
        check_ends((), None, "6b>12b")


def test_budgets():
    assert read_budget(None) is None and read_budget({}) is None and read_budget({"thinking_token_budget": 5}) == 5
    for wrong in (0, -1, 1.5, "5", True, [5]):
        with pytest.raises(ElasticError, match=r"^thinking_token_budget: "):
            read_budget({"thinking_token_budget": wrong})
