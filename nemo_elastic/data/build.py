# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Build a data folder: read, tokenise, mix, write."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from nemo_elastic.io.atomic import atomic_dir
from nemo_elastic.io.values import integer, number

from . import mix
from .corpus import Corpus, Document, read_corpus
from .folder import DATA, MANIFEST, PROBLEMS, SPLITS, TOKENIZER, CorpusInfo, DataFolder, SplitInfo, problem_lines
from .indexed import write_indexed
from .reasoning import Problem, long_weights, mixture, short_weights
from .tokenizer import check_vocab, encode, save_tokenizer, train_tokenizer

__all__ = ["build_data", "write_splits"]

# This much text settles the merges of a small vocabulary; more only takes longer.
_TOKENIZER_CHARS = 4_000_000

#: Called with what is being done and how much of it, from 0 to 1.
Progress = Callable[[str, float], None]


def _nobody(what: str, share: float) -> None:
    """Progress that is not asked for."""


def build_data(
    out: str | Path,
    sources: Sequence[str | Path] = (),
    *,
    vocab: int = 1024,
    reasoning: float = 0.25,
    seed: int = 0,
    held_out_problems: int = 128,
    force: bool = False,
    progress: Progress | None = None,
) -> DataFolder:
    """Build a data folder from the user's text, or from Python's standard library, and from reasoning problems.

    The same arguments, text and package versions give the same bytes. Everything is held in memory: meant for demos
    and small runs, not for corpora of many gigabytes.

    Args:
        out: The folder to write; it appears when it is complete.
        sources: Files or folders, see `corpus.read_corpus`; none for the standard library.
        vocab: Size of the tokenizer's vocabulary.
        reasoning: Share of problem tokens in every split, 0 to 0.9.
        seed: Seed of the problems and of all orders, from 0.
        held_out_problems: Problems to keep for answer accuracy.
        force: Replace an existing folder.
        progress: Told what is being done.

    Returns:
        The opened folder.

    Raises:
        ElasticError: For a value out of range, for sources that cannot be read, or if `out` exists.
    """
    check_vocab(vocab)
    integer("seed", seed, 0, "an integer from 0")
    integer("held_out_problems", held_out_problems, 0, "an integer from 0")
    number("reasoning", reasoning, 0, 0.9, "a number from 0 to 0.9")
    tell = progress or _nobody
    with atomic_dir(out, force, sources, DATA) as folder:  # first of all: an existing output is refused at once
        tell("reading text", 0.0)
        corpus = read_corpus(sources)
        tell("training the tokenizer", 0.0)
        tokenizer = train_tokenizer(_tokenizer_texts(corpus, reasoning, seed), vocab)
        size = tokenizer.get_vocab_size()
        save_tokenizer(tokenizer, folder / TOKENIZER)

        splits, chosen = _mixed(corpus, tokenizer, reasoning, seed, held_out_problems, tell)
        infos = write_splits(folder, splits, size, tell)
        (folder / PROBLEMS).write_text(problem_lines(chosen), encoding="utf-8")
        manifest = DataFolder(
            path=folder, vocab_size=size, seed=seed, reasoning=float(reasoning), held_out_problems=len(chosen),
            python=platform.python_version(),
            corpus=CorpusInfo(corpus.kind, len(corpus.documents), corpus.bytes, corpus.digest),
            splits=infos,
            made_with={name: version(name) for name in ("tokenizers", *(["reasoning-gym"] if reasoning else []))},
        )  # fmt: skip
        (folder / MANIFEST).write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
        DataFolder.open(folder)  # what does not open is not delivered
        tell("writing", 1.0)
    return DataFolder.open(out)


def _mixed(
    corpus: Corpus, tokenizer: Tokenizer, reasoning: float, seed: int, held_out_problems: int, tell: Progress
) -> tuple[dict[str, mix.Split], list[Problem]]:
    """The splits, of text and problems as token ids; and the problems that are kept for answer accuracy."""

    def tokenised(documents: Sequence[Document], what: str) -> list[np.ndarray]:
        ids = []
        for encoded in encode(tokenizer, (d.text for d in documents)):
            ids.append(mix.end(encoded))
            tell(what, len(ids) / len(documents))
        return ids

    def tokens_of_problems(text: Sequence[np.ndarray]) -> int:
        return round(sum(map(len, text)) * reasoning / (1 - reasoning))

    files = tokenised(corpus.train, "tokenising text")
    held_out = tokenised(corpus.held_out, "tokenising held-out text")
    wanted = tokens_of_problems(files)
    pools = {"short": mix.Pool(), "long": mix.Pool()}
    for length in pools if reasoning else ():
        what = f"making {length} problems"
        pools[length] = mix.fill_pool(
            tokenizer, length, seed, wanted, held_out_problems, lambda done, of, w=what: tell(w, done / max(of, 1))
        )
    splits = {
        "train": mix.shuffled(files, pools["short"].train, seed),
        "train_long": mix.shuffled(files, mix.long_problems(pools, wanted), seed + 1),
        "val": mix.val_split(held_out, mix.held_out_problems(pools, tokens_of_problems(held_out)), seed),
    }
    return splits, mix.choose_problems(pools, held_out_problems)


def write_splits(
    folder: Path, splits: Mapping[str, mix.Split], vocab: int, tell: Progress = _nobody
) -> dict[str, SplitInfo]:
    """Write the token files of every split; gives what a manifest says of them."""
    infos = {}
    for done, name in enumerate(SPLITS):
        tell("writing", done / len(SPLITS))
        write_indexed(folder / name, splits[name].documents, vocab)
        infos[name] = _split_info(folder / name, splits[name])
    return infos


def _tokenizer_texts(corpus: Corpus, reasoning: float, seed: int) -> list[str]:
    """A sample of the training text, problems in it at their share, so that their words become tokens."""
    texts = [d.text for d in corpus.train]
    stride = -(-sum(map(len, texts)) // round(_TOKENIZER_CHARS * (1 - reasoning)))
    texts = texts[:: max(stride, 1)]
    missing = sum(map(len, texts)) * reasoning / (1 - reasoning)
    for weights in (short_weights(), long_weights()) if reasoning else ():
        source, total = mixture(weights, seed), 0
        while total < missing / 2:
            problems = "\n".join(p.text for p in islice(source, 64) if not p.held_out)
            texts.append(problems)
            total += len(problems)
    return texts


def _split_info(prefix: Path, split: mix.Split) -> SplitInfo:
    """What a manifest says of a split whose files are written."""
    return SplitInfo(
        tokens=sum(map(len, split.documents)),
        documents=len(split.documents),
        problems=split.problems,
        problem_tokens=split.problem_tokens,
        sha256=hashlib.sha256(Path(f"{prefix}.bin").read_bytes()).hexdigest(),
    )
