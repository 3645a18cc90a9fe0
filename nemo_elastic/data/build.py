# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Build a data folder: read, tokenise, mix, write.

A file is one document, and so is a problem: Megatron's datasets shuffle documents and then read them end to end, so a
window of 128 tokens holds two or three short problems or a piece of a file, and a batch holds both. Every document
ends in `<eos>`, hence a problem always starts right after one, as it does in evaluation.
"""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from nemo_elastic.data.bpe import EOS_ID, check_vocab, encode, save_tokenizer, train_tokenizer
from nemo_elastic.io.outputs import atomic_dir
from nemo_elastic.io.values import integer, number

from .corpus import Corpus, Document, read_corpus
from .folder import DATA, MANIFEST, PROBLEMS, SPLITS, TOKENIZER, CorpusInfo, DataFolder, SplitInfo, problem_lines
from .indexed import digest_of, write_indexed
from .reasoning import LONG_TOKENS, Problem, long_weights, mixture, short_weights

__all__ = ["build_data", "write_splits"]

# This much text settles the merges of a small vocabulary; more only takes longer.
_TOKENIZER_CHARS = 4_000_000

#: Share of short problems among the problem tokens of the long split: what was learned first is not to be forgotten.
SHORT_IN_LONG = 0.2
#: Held-out files are cut into pieces of this many tokens and shuffled: the first 20,000 tokens are a fair sample.
VAL_PIECE = 1024

_CHUNK = 512
# Held-out questions are a tenth of all, and an easy level may have only a handful: no endless search for more.
_EXTRA_CHUNKS = 40

#: Called with what is being done and how much of it, from 0 to 1.
Progress = Callable[[str, float], None]


def build_data(
    out: str | Path,
    sources: Sequence[str | Path] = (),
    *,
    vocab: int = 1024,
    reasoning: float = 0.25,
    seed: int = 0,
    held_out_problems: int = 128,
    force: bool = False,
    progress: Progress = lambda what, share: None,
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
        progress: Called with what is being done.

    Returns:
        The opened folder.

    Raises:
        ElasticError: For a value out of range, for sources that cannot be read, or if `out` exists.
    """
    check_vocab(vocab)
    integer("seed", seed, 0, "an integer from 0")
    integer("held_out_problems", held_out_problems, 0, "an integer from 0")
    number("reasoning", reasoning, 0, 0.9, "a number from 0 to 0.9")
    with atomic_dir(out, force, sources, DATA) as folder:  # first of all: an existing output is refused at once
        progress("reading text", 0.0)
        corpus = read_corpus(sources)
        progress("training the tokenizer", 0.0)
        tokenizer = train_tokenizer(_tokenizer_texts(corpus, reasoning, seed), vocab)
        size = tokenizer.get_vocab_size()
        save_tokenizer(tokenizer, folder / TOKENIZER)

        splits, chosen = _mixed(corpus, tokenizer, reasoning, seed, held_out_problems, progress)
        infos = write_splits(folder, splits, size, progress)
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
        progress("writing", 1.0)
    return DataFolder.open(out)


def _mixed(
    corpus: Corpus, tokenizer: Tokenizer, reasoning: float, seed: int, held_out_problems: int, tell: Progress
) -> tuple[dict[str, Split], list[Problem]]:
    """The splits, of text and problems as token ids; and the problems that are kept for answer accuracy."""

    def tokenised(documents: Sequence[Document], what: str) -> list[np.ndarray]:
        ids = []
        for encoded in encode(tokenizer, (d.text for d in documents)):
            ids.append(end(encoded))
            tell(what, len(ids) / len(documents))
        return ids

    def tokens_of_problems(text: Sequence[np.ndarray]) -> int:
        return round(sum(map(len, text)) * reasoning / (1 - reasoning))

    files = tokenised(corpus.train, "tokenising text")
    held_out = tokenised(corpus.held_out, "tokenising held-out text")
    wanted = tokens_of_problems(files)
    pools = {"short": Pool(), "long": Pool()}
    for length in pools if reasoning else ():
        what = f"making {length} problems"
        pools[length] = fill_pool(
            tokenizer, length, seed, wanted, held_out_problems, lambda done, of, w=what: tell(w, done / max(of, 1))
        )
    splits = {
        "train": shuffled(files, pools["short"].train, seed),
        "train_long": shuffled(files, long_problems(pools, wanted), seed + 1),
        "val": val_split(held_out, val_problems(pools, tokens_of_problems(held_out)), seed),
    }
    return splits, choose_problems(pools, held_out_problems)


def write_splits(
    folder: Path, splits: Mapping[str, Split], vocab: int, tell: Progress = lambda what, share: None
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


def _split_info(prefix: Path, split: Split) -> SplitInfo:
    """What a manifest says of a split whose files are written."""
    return SplitInfo(
        tokens=sum(map(len, split.documents)),
        documents=len(split.documents),
        problems=split.problems,
        problem_tokens=split.problem_tokens,
        sha256=digest_of(prefix),
    )


# ------------------------------------------------------------------ from texts and problems to documents


@dataclass
class Pool:
    """Tokenised problems of one length class.

    Attributes:
        train: Token ids of each training problem, ended by `<eos>`; questions may repeat.
        held_out: Question → the held-out problem and its token ids.
    """

    train: list[np.ndarray] = field(default_factory=list)
    held_out: dict[tuple[str, str], tuple[Problem, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """The documents of one split, and how much of it is problems."""

    documents: list[np.ndarray]
    problems: int
    problem_tokens: int


def fill_pool(
    tokenizer: Tokenizer,
    length: str,
    seed: int,
    tokens: int,
    held_out: int,
    progress: Callable[[int, int], None] | None = None,
) -> Pool:
    """Generate problems until there are enough.

    Args:
        tokenizer: Decides which problems are short.
        length: `short` or `long`; problems of the other class are left out.
        seed: Fixes everything.
        tokens: Training tokens wanted.
        held_out: Different held-out questions wanted; there may be fewer.
        progress: Called with the number of tokens done and wanted.

    Returns:
        At least `tokens` training tokens, less than one problem more.
    """
    # Two lengths of one seed must not sample the same problems of a level that both use.
    source = mixture(short_weights(), 2 * seed) if length == "short" else mixture(long_weights(), 2 * seed + 1)
    pool, total, extra = Pool(), 0, 0
    while total < tokens or (len(pool.held_out) < held_out and extra < _EXTRA_CHUNKS):
        extra += total >= tokens
        chunk = list(islice(source, _CHUNK))
        for problem, ids in zip(chunk, encode(tokenizer, (p.text for p in chunk)), strict=True):
            problem = problem.with_tokens(len(ids))
            if problem.length != length or problem.tokens > LONG_TOKENS:
                continue
            if problem.held_out:
                pool.held_out.setdefault((problem.task, problem.question), (problem, end(ids)))
            elif total < tokens:
                pool.train.append(end(ids))
                total += len(pool.train[-1])
        if progress:
            progress(min(total, tokens), tokens)
    return pool


def choose_problems(pools: Mapping[str, Pool], count: int) -> list[Problem]:
    """Held-out problems for answer accuracy: two short ones per long one, levels and tasks in turn.

    Any first part of the list is as balanced as the whole; the easiest level comes twice per turn.
    """
    turns = {length: iter(_in_turn([p for p, _ in pool.held_out.values()])) for length, pool in pools.items()}
    chosen: list[Problem] = []
    while turns and len(chosen) < count:
        for length in ("short", "short", "long"):
            problem = next(turns[length], None) if length in turns else None
            if problem is None:
                turns.pop(length, None)
            elif len(chosen) < count:
                chosen.append(problem)
    return chosen


def _in_turn(problems: Sequence[Problem]) -> list[Problem]:
    cells: dict[tuple[int, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        cells[problem.level, problem.task].append(problem)
    easiest = min((level for level, _ in cells), default=0)
    turn = sorted(cells) + [key for key in sorted(cells) if key[0] == easiest]
    ordered = []
    while any(cells.values()):
        ordered += [cells[key].pop(0) for key in turn if cells[key]]
    return ordered


def shuffled(files: Sequence[np.ndarray], problems: Sequence[np.ndarray], seed: int) -> Split:
    """Files and problems in one random order."""
    documents = [*files, *problems]
    order = np.random.default_rng(seed).permutation(len(documents))
    return Split([documents[i] for i in order], len(problems), sum(map(len, problems)))


def long_problems(pools: Mapping[str, Pool], tokens: int) -> list[np.ndarray]:
    """Problems of the long split: mostly long ones, and the last short ones again."""
    short = take(pools["short"].train[::-1], round(SHORT_IN_LONG * tokens))
    return take(pools["long"].train, tokens - sum(map(len, short))) + short


def val_problems(pools: Mapping[str, Pool], tokens: int) -> list[np.ndarray]:
    """Problems of the validation split: short and long ones, half of the tokens each."""
    each = tokens // len(pools)
    return [ids for pool in pools.values() for ids in take([ids for _, ids in pool.held_out.values()], each)]


def val_split(files: Sequence[np.ndarray], problems: Sequence[np.ndarray], seed: int) -> Split:
    """Files in pieces, see `VAL_PIECE`, and problems, in one random order where no problem follows half a file."""
    generator = np.random.default_rng(seed)
    pieces = [ids[start : start + VAL_PIECE] for ids in files for start in range(0, len(ids), VAL_PIECE)]
    order = generator.permutation(len(problems))
    # The last piece of a file ends in <eos>: there, and only there, a run of problems may come.
    runs = iter([order[at :: len(files)] for at in range(len(files))])
    documents: list[np.ndarray] = []
    for piece in generator.permutation(len(pieces)):
        documents.append(pieces[piece])
        if pieces[piece][-1] == EOS_ID:
            documents += [problems[at] for at in next(runs)]
    return Split(documents, len(problems), sum(map(len, problems)))


def take(documents: Sequence[np.ndarray], tokens: int) -> list[np.ndarray]:
    """As many documents from the front as reach `tokens`, or all."""
    taken, total = [], 0
    for ids in documents:
        if total >= tokens:
            break
        taken.append(ids)
        total += len(ids)
    return taken


def end(ids: np.ndarray) -> np.ndarray:
    """The ids with `<eos>` behind them."""
    return np.append(ids, np.int32(EOS_ID))
