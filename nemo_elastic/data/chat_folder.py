# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of conversations: the rows for hosts that tokenise themselves, packed sequences for those that do not.

`training.jsonl` and `validation.jsonl` have `messages`, under the names that both hosts look for in a `dataset_root`.
Beside them are the packed files of one host and the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from nemo_elastic.errors import printable
from nemo_elastic.formats.tokenizer import TOKENIZER_FILES
from nemo_elastic.io.fields import Between, OneOf
from nemo_elastic.io.outputs import Output

from .encoded import Tally
from .folder import TOKENIZER, read_manifest
from .packing import NAMES

__all__ = ["CHAT", "HALVES", "MANIFEST", "METADATA", "ChatFolder"]

MANIFEST, METADATA = "chat.json", "packed_metadata.jsonl"
#: a data folder's name of a half -> the hosts'
HALVES = {"train": "training", "val": "validation"}
_VERSION = 1
_HALF = "|".join(HALVES.values())
#: with the indices of rows, and what hosts pack by themselves
CHAT = Output(
    "a chat folder",
    rf"(?:{_HALF})[.]jsonl(?:[.]idx[.](?:npy|info))?|(?:{_HALF})(?:{'|'.join(map(re.escape, NAMES.values()))})|"
    rf"{re.escape(METADATA)}|packed/.*|{TOKENIZER}/(?:{'|'.join(map(re.escape, TOKENIZER_FILES))})",
    MANIFEST,
    frozenset({"version", "vocab_size", "length", "conversations"}),
)


@dataclass(frozen=True)
class ChatFolder:
    """An opened folder of conversations; use `ChatFolder.open`.

    Attributes:
        path: the folder.
        vocab_size: rows of a model that knows every token.
        length: tokens of a packed sequence, the most that a conversation has.
        too_long: what was done with longer ones.
        packed: `npy` or `parquet`.
        marked: whether the chat template marks answers; without marks all tokens count.
        seed: of the packing.
        conversations: of each half.
        sequences: packed ones of each half.
        tally: tokens, those that count, and what was left out.
    """

    path: Path
    vocab_size: Annotated[int, Between(1)]
    length: Annotated[int, Between(1)]
    too_long: str
    packed: Annotated[str, OneOf(NAMES)]
    marked: bool
    seed: int
    conversations: Mapping[str, int]
    sequences: Mapping[str, int]
    tally: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> ChatFolder:
        """Open a folder that `nemo-elastic data` wrote of conversations.

        Raises:
            ElasticError: it is none, or its manifest is damaged.
        """
        return read_manifest(cls, Path(path), MANIFEST, _VERSION)

    def to_json(self) -> dict[str, Any]:
        """The content of `chat.json`."""
        data = asdict(self)
        del data["path"]
        return {"version": _VERSION, **data}

    def lines(self) -> Iterator[str]:
        """What a person reads of it."""
        tally = Tally(**self.tally)
        for half, name in HALVES.items():
            yield (
                f"{printable(str(self.path / name))}.jsonl: {self.conversations[half]} conversations, "
                f"{self.sequences[half]} packed sequences of {self.length} tokens in {name}{NAMES[self.packed]}"
            )
        yield from tally.lines(self.marked, self.length, self.too_long)

    @property
    def tokenizer_dir(self) -> Path:
        """The tokenizer as transformers and the hosts read it."""
        return self.path / TOKENIZER

    def rows(self, half: str) -> Path:
        """The conversations of `train` or `val`."""
        return self.path / f"{HALVES[half]}.jsonl"
