# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a user gives as `--data` -> documents in a family's own tokens, with masks: for `eval`, `rank` and the others.

It is a data folder or a chat folder of `nemo-elastic data`, or text and conversations as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import FamilyTokenizer, what_differs

from .encoded import Encoded, Tally, encode_rows
from .folder import CHAT_MANIFEST, MANIFEST, ChatFolder, DataFolder
from .sources import find_files, read_all

if TYPE_CHECKING:
    from nemo_elastic.formats.source import Source

__all__ = ["EvalData", "read_eval_data"]


@dataclass(frozen=True)
class EvalData:
    """Documents to read, and where they are from.

    Attributes:
        texts: the user's own, in order; of a data folder, which may have millions, `documents` lists them.
        folder: the data folder that they are from, with its problems; None for text.
        split: of that folder.
        notes: lines on what was left out, and on what counts.
    """

    texts: Sequence[Encoded] = ()
    folder: DataFolder | None = None
    split: str = "val"
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, folder: DataFolder, split: str = "val") -> EvalData:
        """All of a split; `ElasticError` where a token is not in the vocabulary."""
        given = cls((), folder, split)
        _ = given.tokens  # looks at all of them, once
        return given

    @cached_property
    def documents(self) -> Sequence[Encoded]:
        """All documents, in order."""
        if self.folder is None:
            return self.texts
        return [Encoded(None, ids) for ids in self.folder.documents(self.split, self.tokens)]

    @property
    def is_chat(self) -> bool:
        """Whether the loss counts only some of the tokens."""
        return any(text.counts is not None for text in self.texts)

    @cached_property
    def tokens(self) -> np.ndarray:
        """All documents end to end, of a data folder as a memory map."""
        if self.folder is not None:
            return self.folder.tokens(self.split)
        return np.concatenate([np.zeros(0, dtype=np.int32), *(text.ids for text in self.texts)])

    @property
    def digest(self) -> str:
        """Short name of the content."""
        if self.folder is not None:
            return self.folder.digest
        return hashlib.sha256(self.tokens.astype("<i4").tobytes()).hexdigest()[:12]


def read_eval_data(data: Path, source: Source, split: str = "val", most: int | None = None) -> EvalData:
    """Documents as tokens that a family knows.

    `data` is a data folder or a chat folder, of which `split` is read, or text and conversations, which the family's
    own tokenizer and chat template make into tokens, up to `most` tokens that count. Anything else is an
    `ElasticError`, as are tokens of another tokenizer, and text where the family has none.
    """
    if (data / MANIFEST).is_file():
        opened = DataFolder.open(data)
        _check_tokenizer(data, opened.tokenizer_dir, opened.vocab_size, source)
        return EvalData.of(opened, split)
    path = data
    if (data / CHAT_MANIFEST).is_file():
        chats = ChatFolder.open(data)
        _check_tokenizer(data, chats.tokenizer_dir, chats.vocab_size, source)
        path = chats.rows(split)
    files = find_files([path])
    tokenizer, tally = FamilyTokenizer.read(source.companions), Tally()
    documents = []
    for document in encode_rows(read_all(files), tokenizer, _end(tokenizer, source), tally):
        documents.append(document)
        if most is not None and tally.counted > most:
            break
    if not documents:
        raise ElasticError(f"--data: {data} has no text")
    largest, vocab = max(int(d.ids.max()) for d in documents), source.parent.vocab
    if largest >= vocab:
        raise ElasticError(
            f"--data: {data} has the token {largest}, but the largest of {source.folder} is {vocab - 1}"
        )
    template = tokenizer.chat_template
    chat = any(document.counts is not None for document in documents)
    marked = None if not chat else template is None or template.marks_answers
    return EvalData(documents, notes=list(tally.lines(marked)))


def _end(tokenizer: FamilyTokenizer, source: Source) -> int | None:
    """The token that ends a text: the tokenizer's own, or else one that ends an answer; None where there is none."""
    if tokenizer.end_id is not None:
        return tokenizer.end_id
    from nemo_elastic.runtime.member_model import Companions  # brings torch

    return min(Companions.of(source).end_ids, default=None)


def _check_tokenizer(data: Path, tokenizer_dir: Path, vocab: int, source: Source) -> None:
    """Refuse data whose tokens mean something else to a model: its loss would be a number about nothing."""
    where = f"--data: {data}"
    if vocab > source.parent.vocab:
        raise ElasticError(
            f"{where} has a vocabulary of {vocab} tokens, but {source.folder} has {source.parent.vocab}"
        )
    if (source.companions / "tokenizer.json").is_file():
        other = what_differs(source.companions, tokenizer_dir)
        if other is not None:
            raise ElasticError(f"{where} was made with another tokenizer than {source.folder}: the {other} differ")
