# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The studies' data: Python's standard library and worked reasoning problems, and texts that need a long context."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from benchmarks.study.context import LENGTH, SHORT, WORDS, documents
from nemo_elastic.data.build import build_data, split_info
from nemo_elastic.data.folder import MANIFEST, PROBLEMS, SPLITS, TOKENIZER, CorpusInfo, DataFolder
from nemo_elastic.data.indexed import write_indexed
from nemo_elastic.data.mix import Split, end
from nemo_elastic.data.tokenizer import EOS, MIN_VOCAB, PAD, encode, save_tokenizer
from nemo_elastic.io.atomic import atomic_dir

#: documents of each split of the texts that need a long context; `train` is the parent's, `train_long` the families'
DOCUMENTS = {"train": 6144, "train_long": 1024, "val": 256}


def library(out: Path) -> None:
    """Text of the standard library, a quarter of it problems."""
    build_data(out, vocab=1024)


def context(out: Path, counts: Mapping[str, int] = DOCUMENTS, length: int = LENGTH) -> None:
    """Documents of `context`, `counts` of each split, a token per word: no merge hides how far back it stands."""
    tokenizer = word_tokenizer(WORDS)
    infos = {}
    with atomic_dir(out, force=False) as folder:
        save_tokenizer(tokenizer, folder / TOKENIZER)
        for split in SPLITS:
            made = [end(ids) for ids in encode(tokenizer, context_texts(split, counts[split], length))]
            write_indexed(folder / split, made, MIN_VOCAB)
            infos[split] = split_info(folder / split, Split(made, problems=0, problem_tokens=0))
        (folder / PROBLEMS).write_text("")
        everything = hashlib.sha256("".join(info.sha256 for info in infos.values()).encode()).hexdigest()
        manifest = DataFolder(
            path=folder, vocab_size=MIN_VOCAB, seed=0, reasoning=0.0, held_out_problems=0,
            python=platform.python_version(),
            corpus=CorpusInfo("files", sum(counts.values()), sum(i.tokens for i in infos.values()), everything),
            splits=infos, made_with={"tokenizers": version("tokenizers")},
        )  # fmt: skip
        (folder / MANIFEST).write_text(json.dumps(manifest.to_json(), indent=2) + "\n")


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A tokenizer of words between spaces, behind the special tokens of every data folder."""
    vocabulary = {word: i for i, word in enumerate((PAD, EOS, *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def context_texts(split: str, count: int, length: int = LENGTH) -> list[str]:
    """The first documents of a split."""
    return [" ".join(d.words) for d in islice(documents(split, length=length), count)]


def context_short(out: Path) -> None:
    """As many tokens of short documents: a model learns in them what it then does over a long one."""
    more = LENGTH // SHORT
    context(out, {split: more * count for split, count in DOCUMENTS.items()}, SHORT)


def held_out(data: Path) -> np.ndarray:
    """(documents, tokens of one): the held-out documents as they are trained on."""
    return np.asarray(DataFolder.open(data).tokens("val")).reshape(-1, LENGTH)


#: folder below the runs -> what writes it
FOLDERS = {"data": library, "data_context": context, "data_context_short": context_short}


def prepare(name: str, runs: Path) -> Path:
    """The folder of that name, built where it is missing."""
    out = runs / name
    if not out.is_dir():
        FOLDERS[name](out)
    return out
