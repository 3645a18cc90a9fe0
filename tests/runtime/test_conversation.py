# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A conversation: what was said goes on, another member may answer, and what an answer took is reported."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime import FamilyRuntime, load_family
from nemo_elastic.runtime.conversation import Conversation
from tests.runtime.talking import MEMBERS, talking_family

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
    conversation = Conversation(family, "6b", "Be brief.", HOW)
    messages = [{"role": "system", "content": "Be brief."}]
    for turn, text in enumerate(("Hi", "And then?")):
        messages.append({"role": "user", "content": text})
        expected = direct(family, messages, seed=3 + turn)
        assert said(conversation, text) == expected
        assert conversation.report()["prompt_tokens"] == len(family.tokenizer.encode_chat(messages))
        messages.append({"role": "assistant", "content": expected})


def test_what_was_said_is_forgotten_but_for_the_system_message(family: FamilyRuntime) -> None:
    conversation = Conversation(family, "6b", "Be brief.", HOW | {"temperature": 0.0})
    first = said(conversation, "Hi")
    tokens = conversation.report()["prompt_tokens"]
    said(conversation, "Hi")
    assert conversation.report()["prompt_tokens"] > tokens
    conversation.reset()
    assert said(conversation, "Hi") == first and conversation.report()["prompt_tokens"] == tokens


def test_without_a_template_the_text_goes_on_in_new_lines(plain: FamilyRuntime) -> None:
    conversation = Conversation(plain, "6b", None, HOW)
    first = said(conversation, "Once")
    expected = direct(plain, f"Once{first}\nupon", seed=4)
    assert said(conversation, "upon") == expected


def test_a_text_that_ends_its_line_gets_no_empty_one(plain: FamilyRuntime) -> None:
    first = direct(plain, "Once\n")[0]
    conversation = Conversation(plain, "6b", None, HOW | {"stop": [first]})
    assert said(conversation, "Once\n") == ""
    said(conversation, "upon")
    assert conversation.report()["prompt_tokens"] == len(plain.tokenizer.encode("Once\nupon"))


def test_an_answer_that_is_broken_off_stays_as_far_as_it_came(plain: FamilyRuntime) -> None:
    conversation, seen = Conversation(plain, "6b", None, HOW | {"max_new_tokens": 20}), []

    def show(piece: str) -> None:
        seen.append(piece)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.answer("Once", show)
    assert conversation.report()["text"] == seen[0] and conversation.report()["new_tokens"] < 20
    expected = direct(plain, f"Once{seen[0]}\nupon", seed=4, max_new_tokens=20)
    assert said(conversation, "upon") == expected


def test_another_member_answers_from_here_on(family: FamilyRuntime) -> None:
    conversation = Conversation(family, None, None, HOW)
    assert conversation.name == "12b" and conversation.members().startswith("[12b], 9b, 6b: ")
    conversation.select("6b")
    parameters = family.select("6b").parameters
    assert conversation.members() == f"12b, 9b, [6b]: {parameters:,} parameters answer"
    said(conversation, "Hi")
    assert conversation.report()["member"] == "6b" and conversation.report()["parameters"] == parameters


def test_a_draft_is_reported_where_it_drafts_and_not_where_it_is_no_smaller(family: FamilyRuntime) -> None:
    conversation = Conversation(family, "9b", None, HOW, draft="6b")
    said(conversation, "Hi")
    draft = conversation.report()["draft"]
    assert draft["member"] == "6b" and draft["drafted_tokens"] >= draft["accepted_tokens"] >= 0
    assert conversation.members().endswith("parameters answer, 6b drafts")
    assert " accepted that 6b drafted; " in conversation.summary()
    conversation.select("6b")
    said(conversation, "Hi")
    assert conversation.report()["draft"] is None and "drafts" not in conversation.members()


def test_an_answer_is_reported_in_a_line(family: FamilyRuntime) -> None:
    conversation = Conversation(family, "6b", None, HOW)
    text, report = said(conversation, "Hi"), conversation.report()
    assert (report["text"], report["tokens_per_second"]) == (text, report["new_tokens"] / report["seconds"])
    assert report["bytes"]["weights"] == family.nbytes
    line = (
        rf"^\(6b: {report['new_tokens']} tokens after {report['prompt_tokens']}, [\d.]+ tokens/s; .* of weights for 3 "
    )
    assert re.match(line, conversation.summary()) and len(MEMBERS) == 3


def test_a_system_message_needs_a_template(plain: FamilyRuntime) -> None:
    with pytest.raises(ElasticError, match=r"^--system: this family has no chat template that could take it$"):
        Conversation(plain, None, "Be brief.", HOW)


@pytest.mark.parametrize("names", [("7b", None), ("6b", "7b")])
def test_a_member_that_is_not_there_is_reported_at_once(family: FamilyRuntime, names: tuple[str, str | None]) -> None:
    with pytest.raises(ElasticError, match="7b"):
        Conversation(family, names[0], None, HOW, draft=names[1])
