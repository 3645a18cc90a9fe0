# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""From texts and problems to the documents of each split.

A file is one document, and so is a problem: Megatron's datasets shuffle documents and then read them end to end, so a
window of 128 tokens holds two or three short problems or a piece of a file, and a batch holds both. Every document
ends in `<eos>`, hence a problem always starts right after one, as it does in evaluation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from .reasoning import LONG_TOKENS, Problem, long_weights, mixture, short_weights
from .tokenizer import EOS_ID, encode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Share of short problems among the problem tokens of the long split: what was learned first is not to be forgotten.
SHORT_IN_LONG = 0.2
#: Held-out files are cut into pieces of this many tokens and shuffled: the first 20,000 tokens are a fair sample.
VAL_PIECE = 1024

_CHUNK = 512
# Held-out questions are a tenth of all, and an easy level may have only a handful: no endless search for more.
_EXTRA_CHUNKS = 40

#: Called with the number of tokens done and wanted.
Progress = Callable[[int, int], None]


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
    tokenizer: Tokenizer, length: str, seed: int, tokens: int, held_out: int, progress: Progress | None = None
) -> Pool:
    """Generate problems until there are enough.

    Args:
        tokenizer: Decides which problems are short.
        length: `short` or `long`; problems of the other class are left out.
        seed: Fixes everything.
        tokens: Training tokens wanted.
        held_out: Different held-out questions wanted; there may be fewer.
        progress: Told how far it is.

    Returns:
        At least `tokens` training tokens, less than one problem more.
    """
    # Two lengths of one seed must not draw the same problems of a level that both use.
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


def held_out_problems(pools: Mapping[str, Pool], tokens: int) -> list[np.ndarray]:
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
