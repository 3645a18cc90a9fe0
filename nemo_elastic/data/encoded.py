# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of text and of conversations as token ids, with a loss mask.

A text ends in the tokenizer's `eos_token`, and all of it counts. A conversation is what the chat template makes of it.
What its `{% generation %}` marks say is an assistant's counts; all of it where there are no marks, as on both hosts.
Without a template a row of `input` and `output` is both with a blank between; the output counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.errors import ElasticError, printable
from nemo_elastic.formats.tokenizer import FamilyTokenizer

from .sources import BATCH, MAX_DOCUMENT, Chat, Row, grouped, oversized

__all__ = ["CUT", "DROP", "Encoded", "Tally", "encode_rows", "end_of"]

#: treatment of conversations that are too long
DROP, CUT = "drop", "cut"


@dataclass(frozen=True)
class Encoded:
    """A document as tokens.

    Attributes:
        row: the encoded row; None for a document of a data folder.
        ids: token ids, int32 or as they are stored.
        counts: which of them the loss counts; None for all.
    """

    row: Row | None
    ids: np.ndarray
    counts: np.ndarray | None = None


@dataclass
class Tally:
    """Counts of rows left out or cut, each with the place of the first.

    Attributes:
        empty: conversations with an empty answer, or none at all.
        long: those that were too long.
        unanswered: cut rows without a token that counts.
        rows: all of them.
        tokens, counted: tokens of the remaining rows, and how many of them count.
        first: name of one of the counts -> where the first was.
    """

    empty: int = 0
    long: int = 0
    unanswered: int = 0
    rows: int = 0
    tokens: int = 0
    counted: int = 0
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, row: Row) -> None:
        """Count one more."""
        setattr(self, what, getattr(self, what) + 1)
        if what not in self.first:
            self.first[what] = row.where

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self)

    def lines(self, marked: bool | None, length: int = 0, too_long: str = DROP) -> Iterator[str]:
        """What a person reads.

        Args:
            marked: whether the chat template marks answers; None without conversations.
            length, too_long: as for `encode_rows`.
        """
        why = {
            "empty": "with an empty answer or without an answer: left out",
            "long": f"of more than {length} tokens: {'cut' if too_long == CUT else 'left out'}",
            "unanswered": f"without an answer in their first {length} tokens: left out",
        }
        for name, words in why.items():
            if count := getattr(self, name):
                yield f"{count} of {self.rows} conversations {words}; the first is {printable(self.first[name])}"
        if marked is False:
            yield (
                "the chat template has no {% generation %} marks: the loss counts every token but padding, "
                "questions as well as answers"
            )
        elif marked:
            yield f"the loss counts answers alone, {self.counted / max(self.tokens, 1):.2f} of all tokens"


def end_of(tokenizer: FamilyTokenizer, folder: Path) -> int:
    """The token that ends a text; `ElasticError` where the tokenizer's settings name none."""
    end = tokenizer.end_id
    if end is None:
        raise ElasticError(f"{folder / 'tokenizer_config.json'}: names no eos_token that the tokenizer has")
    return end


def encode_rows(
    rows: Iterable[Row],
    tokenizer: FamilyTokenizer,
    end: int | None,
    tally: Tally,
    length: int | None = None,
    too_long: str = DROP,
) -> Iterator[Encoded]:
    """Rows as tokens, in order, without those that have nothing to learn from; `tally` counts rows left out or cut.

    Conversations of more than `length` tokens are dropped or cut, see `too_long`. A conversation that the chat
    template does not take is an `ElasticError` with the row's file and line.
    """
    for batch in grouped(rows, lambda row: BATCH if row.chat is not None else len(row.text), BATCH):
        texts = iter(_texts([row for row in batch if row.text.strip()], tokenizer))
        for row in batch:
            tally.rows += 1
            if row.chat is None:
                ids = next(texts) if row.text.strip() else []
                whole = ids if end is None else [*ids, end]
                made = Encoded(row, np.array(whole, dtype=np.int32)) if ids else None
            else:
                made = _conversation(row, row.chat, tokenizer, end, tally, length, too_long)
            if made is not None:
                tally.tokens += len(made.ids)
                tally.counted += len(made.ids) if made.counts is None else int(made.counts.sum())
                yield made


def _texts(rows: Sequence[Row], tokenizer: FamilyTokenizer) -> list[list[int]]:
    """Token ids of each text, without special tokens."""
    for row in rows:
        if len(row.text) > MAX_DOCUMENT:
            raise oversized(row.where)
    try:
        return tokenizer.encode_texts([row.text for row in rows])
    except ElasticError:  # the tokenizer fails at one of them
        out = []
        for row in rows:
            try:
                out.append(tokenizer.encode(row.text, special=False))
            except ElasticError as exc:
                raise exc.of(row.where) from None
        return out


def _conversation(
    row: Row, chat: Chat, tokenizer: FamilyTokenizer, end: int | None, tally: Tally, length: int | None, too_long: str
) -> Encoded | None:
    if not chat.is_answered:
        return tally.add("empty", row)
    try:
        if tokenizer.chat_template is None:
            if chat.pair is None:
                raise tokenizer.no_template("give rows of `input` and `output`")
            question, answer = (tokenizer.encode(text, special=False) for text in (chat.pair[0], f" {chat.pair[1]}"))
            ids = np.array([*question, *answer], dtype=np.int32)
            counts = np.arange(len(ids)) >= len(question)
        else:
            ids, counts = tokenizer.encode_answers(chat.messages, chat.tools)
    except ElasticError as exc:
        raise exc.within(row.where) from None
    if end is not None and (not len(ids) or ids[-1] != end):
        ids, counts = np.append(ids, np.int32(end)), np.append(counts, True)
    if length is not None and len(ids) > length:
        tally.add("long", row)
        if too_long == DROP:
            return None
        ids, counts = ids[:length], counts[:length]
    # the first token of a sequence is predicted from nothing
    return Encoded(row, ids, counts) if counts[1:].any() else tally.add("unanswered", row)
