# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A data folder: tokenizer, token files and held-out problems, described and checked by its `data.json`.

Opening and reading one needs numpy and the tokenizers library, never Megatron or NeMo.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.core.family import known_fields
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.tokenizer import MAX_ROWS, TOKENIZER_FILES, FamilyTokenizer, load_tokenizer, rows_of
from nemo_elastic.io.outputs import Output
from nemo_elastic.io.read import read_json, read_text
from nemo_elastic.io.values import integer, number

from .encoded import end_of
from .indexed import Index, open_tokens, read_index
from .reasoning import Problem

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["DATA", "MANIFEST", "PROBLEMS", "SPLITS", "CorpusInfo", "DataFolder", "SplitInfo"]

VERSION = 1
MANIFEST = "data.json"
PROBLEMS = "val_problems.jsonl"
TOKENIZER = "tokenizer"
#: `train`: files and short problems. `train_long`: the same files, mostly long problems. `val`: held out from both.
#: Without problems there is no `train_long`, and whoever asks for it gets `train`.
SPLITS = ("train", "train_long", "val")
#: with the orders of samples that Megatron puts there while it trains
DATA = Output(
    "a data folder",
    "|".join(
        (
            re.escape(PROBLEMS),
            f"(?:{'|'.join(SPLITS)})[.](?:bin|idx)",
            f"{TOKENIZER}/(?:{'|'.join(map(re.escape, TOKENIZER_FILES))})",
            r"(?:index|cache/GPTDataset_indices)/[0-9a-f]{32}-\w+-\w+-\w+[.](?:npy|txt|dsc)",
        )
    ),
    MANIFEST,
    frozenset({"version", "vocab_size", "corpus", "splits"}),
)


def read_manifest(cls: type, folder: Path, name: str, version: int) -> dict[str, Any]:
    """The fields of a folder's dataclass as its manifest has them, unread but for the version; `path` is the folder.

    Raises:
        ElasticError: it is no such manifest, or of another version.
    """
    where, data = str(folder / name), read_json(folder / name)
    if not isinstance(data, dict):
        raise ElasticError(f"{where}: not an object")
    own = data.pop("version", None)
    if own != version or isinstance(own, bool):
        raise bad(f"{where}: version", own, f"this version of nemo-elastic reads {version}")
    values = known_fields(cls, {"path": folder, **data}, where)
    if values["path"] is not folder:
        raise ElasticError(f"{where}: unknown field 'path'")
    return values


@dataclass(frozen=True)
class CorpusInfo:
    """Where the text came from.

    Attributes:
        kind: `python-stdlib` or `files`.
        documents: Number of texts, held-out ones included.
        bytes: Their size as UTF-8.
        sha256: Digest over names, texts and split.
    """

    kind: str
    documents: int
    bytes: int
    sha256: str


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

    tokens: int
    documents: int
    problems: int
    problem_tokens: int
    sha256: str


@dataclass(frozen=True)
class DataFolder:
    """An opened data folder; use `DataFolder.open`.

    Attributes:
        path: The folder.
        vocab_size: Rows of a model that knows every token.
        seed: What it was built with.
        reasoning: Share of problem tokens that was asked for.
        held_out_problems: Lines of `val_problems.jsonl`.
        python: Version of the Python that built it (and whose library it may hold).
        corpus: Where the text came from.
        splits: Name → size, for `SPLITS`.
        made_with: Versions of the packages that decide the content.
    """

    path: Path
    vocab_size: int
    seed: int
    reasoning: float
    held_out_problems: int
    python: str
    corpus: CorpusInfo
    splits: Mapping[str, SplitInfo]
    made_with: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> DataFolder:
        """Open and check a folder.

        Args:
            path: What `nemo-elastic data --out` wrote.

        Returns:
            The folder, its manifest checked against its files.

        Raises:
            ElasticError: If it is no data folder, or a number of its manifest does not fit the files.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise ElasticError(f"{path}: no data folder (it has no {MANIFEST}); nemo-elastic data --out makes one")
        folder = cls._read(path)
        folder._check_files()
        return folder

    @classmethod
    def _read(cls, path: Path) -> DataFolder:
        where = str(path / MANIFEST)
        values = read_manifest(cls, path, MANIFEST, VERSION)
        integer(f"{where}: vocab_size", values["vocab_size"], 2, f"an integer from 2 to {MAX_ROWS}", MAX_ROWS)
        integer(f"{where}: seed", values["seed"], 0, "an integer from 0")
        integer(f"{where}: held_out_problems", values["held_out_problems"], 0, "an integer from 0")
        number(f"{where}: reasoning", values["reasoning"], 0, 0.9, "a number from 0 to 0.9")
        _text(f"{where}: python", values["python"])
        made_with = values.get("made_with", {})
        if not isinstance(made_with, dict):
            raise bad(f"{where}: made_with", made_with, "a mapping from package to version")
        for name, value in made_with.items():
            _text(f"{where}: made_with.{name}", value)
        if not isinstance(values["splits"], dict) or not {"train", "val"} <= set(values["splits"]) <= set(SPLITS):
            raise bad(f"{where}: splits", values["splits"], f"a mapping with {', '.join(SPLITS)}")
        values["corpus"] = _record(CorpusInfo, values["corpus"], f"{where}: corpus")
        values["splits"] = {
            name: _record(SplitInfo, values["splits"][name], f"{where}: splits.{name}")
            for name in SPLITS
            if name in values["splits"]
        }
        return cls(**values)

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
            raise ElasticError(f"{self.path / PROBLEMS}: not the {self.held_out_problems} problems of {MANIFEST}")

    def to_json(self) -> dict[str, Any]:
        """The content of `data.json`."""
        data = asdict(self)
        del data["path"]
        return {"version": VERSION, **data}

    @property
    def tokenizer_dir(self) -> Path:
        """The tokenizer as transformers and NeMo read it."""
        return self.path / TOKENIZER

    @property
    def digest(self) -> str:
        """Short name of the content: equal for equal token files."""
        joined = "".join(info.sha256 for info in self.splits.values())
        return hashlib.sha256(joined.encode()).hexdigest()[:12]

    def prefix(self, split: str) -> Path:
        """Path of a split's files without their suffix, as Megatron takes it.

        Raises:
            ElasticError: For an unknown split.
        """
        return self.path / self.held(split)

    def held(self, split: str) -> str:
        """The split that is there under a name.

        Raises:
            ElasticError: For an unknown split.
        """
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

    def problems(self, length: str | None = None) -> list[Problem]:
        """The held-out problems for answer accuracy.

        Args:
            length: `short` or `long` for these only.

        Returns:
            Problems in a balanced order: any first part of it has all tasks and levels.

        Raises:
            ElasticError: If a line is not a problem.
        """
        if length not in (None, "short", "long"):
            raise bad("length", length, "use short or long")
        problems = _read_problems(self.path / PROBLEMS)
        return [p for p in problems if length in (None, p.length)]


def problem_lines(problems: list[Problem]) -> str:
    """The content of `val_problems.jsonl`; prompt and length class are for readers without this package."""
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
        values = known_fields(Problem, row, where)
        for name in ("task", "question", "answer"):
            _text(f"{where}: {name}", values[name])
        integer(f"{where}: level", values["level"], 1, "an integer from 1")
        integer(f"{where}: tokens", values.get("tokens"), 1, "an integer from 1")
        if not isinstance(values["steps"], list) or not all(isinstance(step, str) for step in values["steps"]):
            raise bad(f"{where}: steps", values["steps"], "a list of strings")
        problem = Problem(**{**values, "steps": tuple(values["steps"])})
        if (prompt, length) != (problem.prompt, problem.length):
            raise ElasticError(f"{where}: prompt and length do not fit the problem")
        problems.append(problem)
    return problems


def _record(cls: type, data: Any, where: str) -> Any:
    values = known_fields(cls, data, where)
    for name, value in values.items():
        if name in ("kind", "sha256"):
            _text(f"{where}.{name}", value)
        else:
            integer(f"{where}.{name}", value, 0, "an integer from 0")
    return cls(**values)


def _text(field_name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise bad(field_name, value, "a text that is not empty")
