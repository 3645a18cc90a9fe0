# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of every form that hosts' chat datasets take, and what is wrong with a row, with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_elastic.data.sources import Piece, Row, cut_in_pieces, find_files, holds_chat, read_rows
from nemo_elastic.errors import ElasticError
from tests.data.large import asked

USER, SAID = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
FORMS = {
    "messages": {"messages": [USER, SAID]},
    "conversation": {"conversation": [USER, SAID]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "NeMo": {"conversations": [{"from": "User", "value": "2 + 2?"}, {"from": "Assistant", "value": "4"}]},
    "pair": {"input": "2 + 2?", "output": "4"},
}


def rows_of(path: Path, most: int = 2**20) -> list[Row]:
    return [row for piece in cut_in_pieces(find_files([path]), most) for row in read_rows(piece)]


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
        ('{"a": 1}', "line 3: no object with a field 'text' that is a string, nor a conversation"),
        ("[1]", "line 3: no object with a field 'text'"),
        ('{"messages": [{"role": "user"}]}', r"line 3: messages\[0\].content: None is not allowed; a text"),
        ('{"messages": "Hello"}', "line 3: messages: 'Hello' is not allowed; a list of messages"),
        ('{"messages": ["Hello"]}', r"line 3: messages\[0\]: 'Hello' is not allowed"),
        ("\udcff", "line 3: not UTF-8 at byte 0 of the line"),
    ],
)
@pytest.mark.parametrize("most", [2**20, 70])
def test_a_bad_line_has_its_number_whatever_piece_it_is_in(line: str, said: str, most: int, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(f"{asked('a', 'b')}\n{asked('c', 'd')}\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(ElasticError, match=said):
        rows_of(path, most)


def test_pieces_have_every_line_once(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    texts = ["x" * n for n in (1, 90, 3, 40, 0, 7)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + "\n" + json.dumps({"text": "end"}))
    for most in range(1, 200, 7):
        result = rows_of(path, most)
        assert [row.text for row in result] == [*texts, "end"]
        assert [row.where for row in result] == [f"{path} line {n}" for n in (1, 2, 3, 4, 5, 6, 8)]
        assert len({row.name for row in result}) == 7


def test_plain_files_are_one_document_without_their_mark_and_returns(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    (tmp_path / ".hidden.md").write_text("no")
    [row] = rows_of(tmp_path)
    assert (row.name, row.text, row.where) == (f"{tmp_path.name}/a.md", "one\ntwo\n", str(tmp_path / "a.md"))
    (tmp_path / "a.md").write_bytes(b"a\xff")
    with pytest.raises(ElasticError, match="not UTF-8 at byte 1"):
        rows_of(tmp_path)


def test_a_line_that_does_not_end_is_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_elastic.data.sources.SMALL", 2**20)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 2**20}))
    with pytest.raises(ElasticError, match="line 1: longer than 1 MiB"):
        next(read_rows(Piece(str(path), "a", 0, 2**21)))
