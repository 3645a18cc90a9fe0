# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The user's `--data` as documents in a family's tokens, with loss masks, for `eval`, `rank` and other commands.

It is a data folder or a chat folder of `nemo-elastic data`, or text and conversations as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.tokenizer import FamilyTokenizer, what_differs

from .encoded import Encoded, Tally, encode_rows
from .folder import CHAT_MANIFEST, MANIFEST, ChatFolder, DataFolder
from .sources import drawn, find_files, read_all

if TYPE_CHECKING:
    from nemo_elastic.formats.checkpoint import Checkpoint
    from nemo_elastic.nn.rows import Rows

__all__ = ["EvalData", "drawn_pieces", "read_eval_data", "training_rows"]

#: tokens that are tokenised for each token that is used: documents are drawn from them
SPREAD = 16


@dataclass(frozen=True)
class EvalData:
    """Documents to read, and where they are from.

    Attributes:
        texts: the user's, in a seeded order; of a data folder, which may have millions, `documents`
            lists them.
        folder: the data folder that they are from, with its problems; None for text.
        split: of that folder.
        notes: lines about rows left out and about the loss mask.
    """

    texts: Sequence[Encoded] = ()
    folder: DataFolder | None = None
    split: str = "val"
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, folder: DataFolder, split: str = "val") -> EvalData:
        """All of a split; `ElasticError` where a token is not in the vocabulary."""
        given = cls((), folder, split)
        _ = given.tokens  # checks all of them, once
        return given

    @cached_property
    def documents(self) -> Sequence[Encoded]:
        """All documents: those of a data folder as they are stored."""
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

    def sample(self, size: int, most: int) -> Iterator[Encoded]:
        """Conversations whole, of text up to `most` pieces of `size` tokens: both drawn from all there is."""
        if self.is_chat:
            yield from self.texts
        else:
            yield from (Encoded(None, ids) for ids in drawn_pieces(self.tokens, size, most))


def drawn_pieces(tokens: np.ndarray, size: int, most: int, seed: int = 0) -> list[np.ndarray]:
    """Up to `most` pieces of `size` tokens that do not overlap, drawn by the seed; all of a shorter text is one."""
    count = max(1, len(tokens) // size)
    chosen = np.random.default_rng(seed).choice(count, min(most, count), replace=False)
    return [tokens[at * size : (at + 1) * size] for at in sorted(chosen.tolist())]


def read_eval_data(data: Path, source: Checkpoint, split: str = "val", most: int | None = None) -> EvalData:
    """Documents as tokens that a family knows.

    `data` is a data folder or a chat folder, of which `split` is read, or text and conversations: all of them, or so
    many drawn ones that there are `SPREAD` times `most` tokens that count. A chat folder's own tokenizer and chat
    template make its conversations into tokens, as they did for training; the family's do for other files. Anything
    else is an `ElasticError`, as are tokens of another tokenizer, and text where the family has none.
    """
    if (data / MANIFEST).is_file():
        opened = DataFolder.open(data)
        _check_tokenizer(data, opened.tokenizer_dir, opened.vocab_size, source)
        return EvalData.of(opened, split)
    path, place = data, source.companions or source.folder
    if (data / CHAT_MANIFEST).is_file():
        chats = ChatFolder.open(data)
        _check_tokenizer(data, chats.tokenizer_dir, chats.vocab_size, source)
        path, place = chats.rows(split), chats.tokenizer_dir
    files = find_files([path])
    tokenizer, tally = FamilyTokenizer.read(place), Tally()
    documents = []
    rows = drawn(list(read_all(files)))
    for document in encode_rows(rows, tokenizer, _end(tokenizer, source), tally):
        documents.append(document)
        if most is not None and tally.counted > SPREAD * most:
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


def training_rows(data: Path, source: Checkpoint, samples: int, length: int) -> tuple[list[Rows], dict[str, Any]]:
    """Sequences to rank a parent on: windows of conversations, in which the answers count, or pieces of text.

    Returns:
        Rows of one sequence each, with the label of its last token; and which they are, as JSON values.

    Raises:
        ElasticError: the data has fewer; see also `read_eval_data`.
    """
    from nemo_elastic.nn.rows import Rows

    text = read_eval_data(data, source, "train", samples * length)
    pieces = text.sample(length + 1, samples)
    windows = [*islice((w for each in pieces for w in Rows.windows(each.ids, each.counts, length)), samples)]
    found = sum(text.is_chat or rows.ids_bl.shape[1] > length for rows in windows)
    if found < samples:
        allowed = (
            f"text with {samples} sequences of {length} tokens, as elastic.importance.samples asks; it has {found}"
        )
        raise bad("--data", str(data), allowed)
    return windows, {"data": text.digest, "sequences": len(windows), "length": length}


def _end(tokenizer: FamilyTokenizer, source: Checkpoint) -> int | None:
    """The token that ends a text: the tokenizer's, or else one that ends an answer; None without one."""
    if tokenizer.end_id is not None:
        return tokenizer.end_id
    from nemo_elastic.runtime.member_model import Companions  # brings torch

    return min(Companions.of(source).end_ids, default=None)


def _check_tokenizer(data: Path, tokenizer_dir: Path, vocab: int, source: Checkpoint) -> None:
    """Refuse data whose tokens mean something else to a model: its loss would be meaningless."""
    where = f"--data: {data}"
    if vocab > source.parent.vocab:
        raise ElasticError(
            f"{where} has a vocabulary of {vocab} tokens, but {source.folder} has {source.parent.vocab}"
        )
    folder = source.companions or source.folder
    if (folder / "tokenizer.json").is_file():
        other = what_differs(folder, tokenizer_dir)
        if other is not None:
            raise ElasticError(f"{where} was made with another tokenizer than {source.folder}: the {other} differ")
