# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of every form that hosts' chat datasets take, and what is wrong with a row, with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE

from nemo_elastic.data.encoded import Tally, encode_rows
from nemo_elastic.data.sources import MAX_DOCUMENT, Row, drawn, find_files, hold_out, holds_chat, read_all
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from tests.data.large import asked

USER, SAID = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
FORMS = {
    "messages": {"messages": [USER, SAID]},
    "conversation": {"conversation": [USER, SAID]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "NeMo": {"conversations": [{"from": "User", "value": "2 + 2?"}, {"from": "Assistant", "value": "4"}]},
    "pair": {"input": "2 + 2?", "output": "4"},
}


def rows_of(path: Path) -> list[Row]:
    return list(read_all(find_files([path])))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_conversation(form: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(FORMS[form]) + "\n")
    [row] = rows_of(path)
    assert row.chat is not None and row.chat.messages == [USER, SAID] and row.chat.is_answered
    assert (row.chat.pair is not None) == (form == "pair") and holds_chat(find_files([path]))
    path.write_text(json.dumps(FORMS[form] | {"system": "Be brief."}))
    first = rows_of(path)[0].chat.messages[0]
    assert first == (USER if form == "pair" else {"role": "system", "content": "Be brief."})


def test_tools_and_what_templates_read_beside_come_along(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    thought = SAID | {"reasoning_content": "two and two"}
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [USER, call, thought], "tools": [{"name": "add"}]}))
    [row] = rows_of(path)
    assert row.chat.messages == [USER, call | {"content": ""}, thought]
    assert (row.chat.tools, row.chat.is_answered) == ([{"name": "add"}], True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"messages": [', "line 3: not JSON"),
        ("[1]", "line 3: no object with a field 'text'"),
        ('{"messages": [{"role": "user"}]}', r"line 3: messages\[0\].content: "),
        ('{"messages": "Hello"}', "line 3: messages: "),
        ('{"messages": ["Hello"]}', r"line 3: messages\[0\]: "),
        ("\udcff", "line 3: not UTF-8 at byte 0 of the line"),
        (r'{"text": "a\ud800"}', "line 3: text: "),
        (r'{"messages": [{"role": "user", "content": "a", "x\ud800": 1}]}', "line 3: messages: "),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": %s}' % ("[" * 100 + "]" * 100), "line 3: tools: "),
        ('{"text": "a", "about": %s}' % ("[" * 9999 + "]" * 9999), "line 3: nested too deep"),
    ],
)
def test_a_bad_line_has_its_number(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(f"{asked('a', 'b')}\n{asked('c', 'd')}\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(ElasticError, match=said):
        rows_of(path)


def test_rows_have_the_lines_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    texts = ["x" * n for n in (1, 90, 3, 40, 0, 7)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + "\n" + json.dumps({"text": "end"}))
    result = rows_of(path)
    assert [row.text for row in result] == [*texts, "end"]
    assert [row.where for row in result] == [f"{path} line {n}" for n in (1, 2, 3, 4, 5, 6, 8)]
    assert len({row.name for row in result}) == 7 and result[-1].end == path.stat().st_size


@given(st.lists(st.text(), unique=True, max_size=40), st.integers(0, 2**64))
def test_what_is_held_out_depends_on_its_key_alone_and_neither_half_is_empty(names: list[str], limit: int) -> None:
    validation: list[str] = []
    train = list(hold_out(names, str, limit, validation))
    assert sorted(train + validation) == sorted(names)
    assert train == [name for name in names if name in train], "in order"
    if len(names) > 1:
        assert train and validation
    if min(len(train), len(validation)) > 1:
        more: list[str] = []
        again = list(hold_out(names[::-1], str, limit, more))
        assert ({*again}, {*more}) == ({*train}, {*validation})


@given(st.lists(st.integers(), max_size=40), st.integers(0, 9))
def test_items_are_drawn_by_the_seed_alone(items: list[int], seed: int) -> None:
    late: list[int] = []
    order = drawn(late, seed)  # items may come until the first is asked for
    late += items
    assert list(order) == list(drawn(items, seed)) and sorted(drawn(items, seed)) == sorted(items)
    front = [next(drawn(range(100), each)) for each in range(20)]
    assert len({*front}) > 10 and max(front) > 80


def test_plain_files_are_one_document_without_their_mark_and_returns(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    (tmp_path / ".hidden.md").write_text("no")
    [row] = rows_of(tmp_path)
    assert (row.name, row.text, row.where) == ("a.md", "one\ntwo\n", str(tmp_path / "a.md"))
    (tmp_path / "a.md").write_bytes(b"a\xff")
    with pytest.raises(ElasticError, match="not UTF-8 at byte 1"):
        rows_of(tmp_path)


def test_what_is_longer_than_any_document_is_refused(tmp_path: Path) -> None:
    """A tokenizer would take gigabytes for it."""
    lines, text = tmp_path / "lines.jsonl", tmp_path / "text.txt"
    lines.write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"text": "\n" * MAX_DOCUMENT}))
    text.write_text("x" * (MAX_DOCUMENT + 1))
    with pytest.raises(ElasticError, match=r"lines.jsonl line 2: longer than 16 MiB"):
        rows_of(lines)
    with pytest.raises(ElasticError, match=r"text.txt: longer than 16 MiB"):
        list(encode_rows(rows_of(text), FamilyTokenizer(Tokenizer(BPE())), None, Tally()))
