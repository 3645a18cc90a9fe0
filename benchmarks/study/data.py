# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The studies' data: Python's standard library and worked reasoning problems, and texts that need a long context."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.study.context import LENGTH, SHORT, WORDS, documents
from benchmarks.study.facts import build_recall
from nemo_elastic.data.build import build_data
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.demo.words import build_words

#: documents of each split of the texts that need a long context; `train` is the parent's, `train_long` the families'
DOCUMENTS = {"train": 6144, "train_long": 1024, "val": 256}


def library(out: Path) -> None:
    """Text of the standard library, a quarter of it problems."""
    build_data(out, vocab=1024)


def context(out: Path, counts: Mapping[str, int] = DOCUMENTS, length: int = LENGTH) -> None:
    """Documents of `context`, `counts` of each split, a token per word: no merge hides how far back it stands."""
    build_words(out, WORDS, {split: context_texts(split, count, length) for split, count in counts.items()})


def context_texts(split: str, count: int, length: int = LENGTH) -> list[str]:
    """The first documents of a split."""
    return [" ".join(d.words) for d in islice(documents(split, length=length), count)]


def context_short(out: Path) -> None:
    """As many tokens of short documents: a model learns in them what it then does over a long one."""
    more = LENGTH // SHORT
    context(out, {split: more * count for split, count in DOCUMENTS.items()}, SHORT)


#: tokens of a text that asks for what it said, near and far
RECALL_SHORT, RECALL_LONG = 64, 512
#: texts of each split and their tokens; the parent learns in short ones first
RECALL_TEXTS = {"train": (16384, RECALL_SHORT), "train_long": (2048, RECALL_LONG), "val": (384, RECALL_LONG)}


def recall(out: Path) -> None:
    """Texts that state facts and ask for them: a question is answered right or not."""
    build_recall(out, RECALL_TEXTS)


def held_out(data: Path) -> np.ndarray:
    """(documents, tokens of one): the held-out documents as they are trained on."""
    return np.asarray(DataFolder.open(data).tokens("val")).reshape(-1, LENGTH)


#: folder below the runs -> what writes it
FOLDERS = {"data": library, "data_context": context, "data_context_short": context_short,
           "data_recall": recall}  # fmt: skip


def prepare(name: str, runs: Path) -> Path:
    """The folder of that name, built where it is missing."""
    out = runs / name
    if not out.is_dir():
        FOLDERS[name](out)
    return out
