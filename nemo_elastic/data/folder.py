# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The two folders of `nemo-elastic data`, each described and checked by its manifest.

A data folder (`data.json`) has a tokenizer, token files and held-out problems. A chat folder (`chat.json`) has a
tokenizer, conversations under the names that both hosts look for in a `dataset_root` (`training.jsonl`,
`validation.jsonl`), and their packed sequences for one host. Opening either needs no Megatron.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import numpy as np

from nemo_elastic.errors import ElasticError, bad, inside, printable
from nemo_elastic.formats.tokenizer import MAX_ROWS, TOKENIZER_FILES, FamilyTokenizer, load_tokenizer, rows_of
from nemo_elastic.io.fields import TEXT, Between, OneOf, check_version, read
from nemo_elastic.io.outputs import Output
from nemo_elastic.io.read import read_json, read_text

from .encoded import Tally, end_of
from .indexed import Index, open_tokens, read_index
from .packing import NAMES
from .reasoning import Problem

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "CHAT",
    "CHAT_MANIFEST",
    "CHAT_SPLITS",
    "DATA",
    "MANIFEST",
    "METADATA",
    "PROBLEMS",
    "SPLITS",
    "TOKENIZER",
    "ChatFolder",
    "CorpusInfo",
    "DataFolder",
    "SplitInfo",
    "problem_lines",
]  # fmt: skip

VERSION = 1
MANIFEST, CHAT_MANIFEST = "data.json", "chat.json"
PROBLEMS, METADATA = "val_problems.jsonl", "packed_metadata.jsonl"
TOKENIZER = "tokenizer"
#: `train`: files and short problems. `train_long`: the same files, mostly long problems. `val`: held out from both.
#: Without problems `train_long` is `train`.
SPLITS = ("train", "train_long", "val")
#: a data folder's name of a split -> the hosts' for conversations
CHAT_SPLITS = {"train": "training", "val": "validation"}
_TOKENIZER = f"{TOKENIZER}/(?:{'|'.join(map(re.escape, TOKENIZER_FILES))})"
_CHAT_SPLIT = f"(?:{'|'.join(CHAT_SPLITS.values())})"
#: with the orders of samples that Megatron puts there while it trains
DATA = Output(
    "a data folder",
    rf"{re.escape(PROBLEMS)}|(?:{'|'.join(SPLITS)})[.](?:bin|idx)|{_TOKENIZER}|"
    r"(?:index|cache/GPTDataset_indices)/[0-9a-f]{32}-\w+-\w+-\w+[.](?:npy|txt|dsc)",
    MANIFEST,
    frozenset({"version", "vocab_size", "corpus", "splits"}),
)
#: with the indices of rows, and what hosts pack by themselves
CHAT = Output(
    "a chat folder",
    rf"{_CHAT_SPLIT}[.]jsonl(?:[.]idx[.](?:npy|info))?|{_CHAT_SPLIT}(?:{'|'.join(map(re.escape, NAMES.values()))})|"
    rf"{re.escape(METADATA)}|packed/.*|{_TOKENIZER}",
    CHAT_MANIFEST,
    frozenset({"version", "vocab_size", "length", "conversations"}),
)

_Folder = TypeVar("_Folder", bound="_Described")
_Text = Annotated[str, TEXT]
_Count = Annotated[int, Between(0)]


class _Described:
    """A folder with a manifest that has its dataclass's fields but `path`, which is the folder."""

    manifest: ClassVar[str]
    path: Path

    @classmethod
    def _read_manifest(cls: type[_Folder], folder: Path) -> _Folder:
        data = read_json(folder / cls.manifest)
        with inside(folder / cls.manifest):
            check_version(data, VERSION)
            del data["version"]
            return read(cls, {"path": folder, **data}, "")

    def to_json(self) -> dict[str, Any]:
        """The content of the manifest."""
        data = asdict(self)  # pyright: ignore[reportArgumentType]
        del data["path"]
        return {"version": VERSION, **data}

    def write(self) -> None:
        """Write the manifest."""
        (self.path / self.manifest).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    @property
    def tokenizer_dir(self) -> Path:
        """The tokenizer as transformers and the hosts read it."""
        return self.path / TOKENIZER


# ------------------------------------------------------------------ texts


@dataclass(frozen=True)
class CorpusInfo:
    """Where the text came from.

    Attributes:
        kind: `python-stdlib` or `files`.
        documents: Number of texts, held-out ones included.
        bytes: Their size as UTF-8.
        sha256: Digest over names, texts and split.
    """

    kind: _Text
    documents: _Count
    bytes: _Count
    sha256: _Text


@dataclass(frozen=True)
class SplitInfo:
    """One pair of token files.

    Attributes:
        tokens: All tokens, `<eos>` included.
        documents: Files (pieces of them in `val`) and problems.
        problems: How many of the documents are problems.
        problem_tokens: Tokens of these.
        sha256: Digest of the .bin file.
    """

    tokens: _Count
    documents: _Count
    problems: _Count
    problem_tokens: _Count
    sha256: _Text


@dataclass(frozen=True)
class DataFolder(_Described):
    """An opened data folder; use `DataFolder.open`.

    Attributes:
        path: The folder.
        vocab_size: Rows of a model that knows every token.
        seed: of the build.
        reasoning: Requested share of problem tokens.
        held_out_problems: Lines of `val_problems.jsonl`.
        python: Version of the Python that built it (and whose library it may hold).
        corpus: Where the text came from.
        splits: Name → size, for `SPLITS`.
        made_with: Versions of the packages that decide the content.
    """

    manifest: ClassVar[str] = MANIFEST
    path: Path
    vocab_size: Annotated[int, Between(2, MAX_ROWS)]
    seed: _Count
    reasoning: Annotated[float, Between(0, 0.9)]
    held_out_problems: _Count
    python: _Text
    corpus: CorpusInfo
    splits: Annotated[Mapping[str, SplitInfo], OneOf(SPLITS)]
    made_with: Mapping[str, _Text] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> DataFolder:
        """Open a folder, and check its manifest against its files.

        Raises:
            ElasticError: If it is no data folder, or a number of its manifest does not fit the files.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise ElasticError(
                f"{path}: is not a data folder, because it has no {MANIFEST}; make one with nemo-elastic data --out"
            )
        folder = cls._read_manifest(path)
        if not {"train", "val"} <= folder.splits.keys():
            raise bad(f"{path / MANIFEST}: splits", list(folder.splits), "a mapping with train and val")
        folder._check_files()
        return folder

    def _check_files(self) -> None:
        for name, info in self.splits.items():
            index = self.index(name)
            sizes = (index.tokens, len(index.documents) - 1)
            if sizes != (info.tokens, info.documents):
                raise ElasticError(
                    f"{self.prefix(name)}.idx: {sizes[0]} tokens in {sizes[1]} documents, "
                    f"but {MANIFEST} says {info.tokens} in {info.documents}"
                )
        size = rows_of(self.tokenizer())
        if size != self.vocab_size:
            raise ElasticError(f"{self.tokenizer_dir}: needs {size} rows, but {MANIFEST} says {self.vocab_size}")
        if len(self.problems()) != self.held_out_problems:
            raise ElasticError(
                f"{self.path / PROBLEMS}: does not have the {self.held_out_problems} problems that {MANIFEST} counts"
            )

    @property
    def digest(self) -> str:
        """Short name of the content: equal for equal token files."""
        return digest_of_splits(self.splits)[:12]

    def prefix(self, split: str) -> Path:
        """Path of a split's files without their suffix, as Megatron takes it."""
        return self.path / self.available(split)

    def available(self, split: str) -> str:
        """Name of the split whose files are read: `train` for `train_long` in a folder without it."""
        if split not in SPLITS:
            raise bad("split", split, f"use one of {', '.join(SPLITS)}")
        return split if split in self.splits else "train"

    def index(self, split: str) -> Index:
        """Lengths of the documents of a split."""
        return read_index(self.prefix(split))

    def tokens(self, split: str) -> np.ndarray:
        """All tokens of a split end to end: a read-only memory map of uint16 or int32.

        Raises:
            ElasticError: If one is not in the vocabulary.
        """
        return open_tokens(self.prefix(split), self.vocab_size)

    def documents(self, split: str, tokens: np.ndarray | None = None) -> list[np.ndarray]:
        """The tokens of each document of a split, as parts of `tokens`, which is opened unless it is given."""
        index, tokens = self.index(split), self.tokens(split) if tokens is None else tokens
        ends = np.append(0, np.cumsum(index.lengths, dtype=np.int64))[index.documents]
        return [tokens[start:end] for start, end in pairwise(ends.tolist())]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without transformers."""
        return load_tokenizer(self.tokenizer_dir)

    @property
    def end_id(self) -> int:
        """The token that ends every document.

        Raises:
            ElasticError: the tokenizer's settings name none.
        """
        return end_of(FamilyTokenizer.read(self.tokenizer_dir), self.tokenizer_dir)

    def problems(self) -> list[Problem]:
        """The held-out problems for answer accuracy; any first part of them has all tasks and levels.

        Raises:
            ElasticError: If a line is not a problem.
        """
        return _read_problems(self.path / PROBLEMS)


def digest_of_splits(splits: Mapping[str, SplitInfo]) -> str:
    """SHA-256 of all token files."""
    return hashlib.sha256("".join(info.sha256 for info in splits.values()).encode()).hexdigest()


def problem_lines(problems: Sequence[Problem]) -> str:
    """JSON lines of `val_problems.jsonl`. `prompt` and `length` (short or long) are derived, for other readers."""
    rows = ({**asdict(p), "prompt": p.prompt, "length": p.length} for p in problems)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _read_problems(path: Path) -> list[Problem]:
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError):
        raise ElasticError(f"{path}: cannot be read") from None
    problems = []
    for line_number, line in enumerate(lines, 1):
        where = f"{path} line {line_number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ElasticError(f"{where}: not JSON") from None
        prompt = row.pop("prompt", None) if isinstance(row, dict) else None
        length = row.pop("length", None) if isinstance(row, dict) else None
        with inside(where):
            problem = read(Problem, row, "")
        if (prompt, length) != (problem.prompt, problem.length):
            raise ElasticError(f"{where}: prompt and length do not fit the problem")
        problems.append(problem)
    return problems


# ------------------------------------------------------------------ conversations


@dataclass(frozen=True)
class ChatFolder(_Described):
    """An opened folder of conversations; use `ChatFolder.open`.

    Attributes:
        path: the folder.
        vocab_size: rows of a model that knows every token.
        length: tokens of a packed sequence, the most that a conversation has.
        too_long: treatment of longer conversations.
        packed: `npy` or `parquet`.
        marked: whether the chat template marks answers; without marks all tokens count.
        seed: of the packing.
        conversations: of each split.
        sequences: split -> number of packed sequences.
        tally: tokens, tokens that count, and rows left out.
    """

    manifest: ClassVar[str] = CHAT_MANIFEST
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
            ElasticError: not a data folder, or a damaged manifest.
        """
        return cls._read_manifest(Path(path))

    def lines(self) -> Iterator[str]:
        """What a person reads of it."""
        for split, name in CHAT_SPLITS.items():
            yield (
                f"{printable(str(self.path / name))}.jsonl: {self.conversations[split]} conversations, "
                f"{self.sequences[split]} packed sequences of {self.length} tokens in {name}{NAMES[self.packed]}"
            )
        yield from Tally(**self.tally).lines(self.marked, self.length, self.too_long)

    def rows(self, split: str) -> Path:
        """The conversations of `train` or `val`."""
        return self.path / f"{CHAT_SPLITS[split]}.jsonl"
