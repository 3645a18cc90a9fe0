# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A conversation goes on from what was said; `tests/cli/test_cmd_chat.py` has who answers, and what is reported."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_elastic.runtime import FamilyRuntime, load_family
from nemo_elastic.runtime.conversation import Conversation
from tests.runtime.talking import talking_family

HOW: dict[str, Any] = {"max_new_tokens": 4, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> FamilyRuntime:
    return load_family(talking_family(tmp_path_factory.mktemp("chat")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> FamilyRuntime:
    return load_family(talking_family(tmp_path_factory.mktemp("plain"), template=None))


def direct(family: FamilyRuntime, prompt: Any, **how: Any) -> str:
    """What the smallest member says when it is asked without a conversation."""
    return family.select("6b").generate(prompt, **HOW | how)


def said(conversation: Conversation, text: str) -> str:
    pieces: list[str] = []
    conversation.answer(text, pieces.append)
    return "".join(pieces)


def test_an_answer_is_what_the_member_generates_of_all_that_was_said(family: FamilyRuntime) -> None:
    conversation = Conversation(family, "6b", HOW)
    messages: list[dict[str, str]] = []
    for turn, text in enumerate(("Hi", "And then?")):
        messages.append({"role": "user", "content": text})
        expected = direct(family, messages, seed=3 + turn)
        assert said(conversation, text) == expected
        assert conversation.report()["prompt_tokens"] == len(family.tokenizer.encode_chat(messages))
        messages.append({"role": "assistant", "content": expected})


def test_a_reset_forgets_what_was_said(family: FamilyRuntime) -> None:
    conversation = Conversation(family, "6b", HOW | {"temperature": 0.0})
    first = said(conversation, "Hi")
    tokens = conversation.report()["prompt_tokens"]
    said(conversation, "Hi")
    assert conversation.report()["prompt_tokens"] > tokens
    conversation.reset()
    assert said(conversation, "Hi") == first and conversation.report()["prompt_tokens"] == tokens


def test_without_a_template_the_text_goes_on_in_new_lines(plain: FamilyRuntime) -> None:
    conversation = Conversation(plain, "6b", HOW)
    first = said(conversation, "Once")
    expected = direct(plain, f"Once{first}\nupon", seed=4)
    assert said(conversation, "upon") == expected


def test_a_text_that_ends_its_line_gets_no_empty_one(plain: FamilyRuntime) -> None:
    first = direct(plain, "Once\n")[0]
    conversation = Conversation(plain, "6b", HOW | {"stop": [first]})
    assert said(conversation, "Once\n") == ""
    said(conversation, "upon")
    assert conversation.report()["prompt_tokens"] == len(plain.tokenizer.encode("Once\nupon"))


def test_an_answer_that_is_broken_off_stays_as_far_as_it_came(plain: FamilyRuntime) -> None:
    conversation, seen = Conversation(plain, "6b", HOW | {"max_new_tokens": 20}), []

    def show(piece: str) -> None:
        seen.append(piece)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.answer("Once", show)
    assert conversation.report()["text"] == seen[0] and conversation.report()["new_tokens"] < 20
    expected = direct(plain, f"Once{seen[0]}\nupon", seed=4, max_new_tokens=20)
    assert said(conversation, "upon") == expected
