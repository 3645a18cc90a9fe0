# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The right shape for a task: a search inside a trained family by its loss on the task's text.

Documents are divided into two halves, one to search on and one to report on. The search starts from the path's shape
at the budget. Its result is compared with that shape on the other half, document by document, and is taken only if it
is better there, too: a search over a hundred shapes always finds one that is better on the searched half.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.encoded import Encoded
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.rows import Rows
from nemo_elastic.runtime import FamilyRuntime
from nemo_elastic.search import Trial, search, trained_space
from nemo_elastic.verdicts import FEW, Interval, ratio_interval

from .scoring import Model, log_probs

#: sequences per turn when documents of a half are read in turns, so that a long one does not use all tokens
TURN = 8
#: tokens of the reported half relative to the searched one: it is run twice, not for every candidate
WIDER = 4


@dataclass(frozen=True)
class Half:
    """Documents, cut into sequences.

    Attributes:
        rows: sequences, each from a single document.
        document_s: which document each is of: numbers from 0 on.
    """

    rows: Rows
    document_s: np.ndarray

    @property
    def tokens(self) -> int:
        """Tokens that are predicted, and count."""
        return int(self.rows.counted)

    @property
    def documents(self) -> int:
        """How many documents it has."""
        return len(np.unique(self.document_s))

    def losses(self, model: Model, batch: int = 8) -> np.ndarray:
        """Loss of each sequence, a sum over its labels that count, in nats."""
        return -log_probs(model, self.rows, batch).sum(1).numpy()

    def loss(self, loss_s: np.ndarray) -> float:
        """Nats per token, of the losses of each sequence (`losses`)."""
        return float(loss_s.sum()) / self.tokens

    def gain(self, worse_s: np.ndarray, better_s: np.ndarray) -> Interval | None:
        """By how much one of two losses of each sequence is lower, nats per token.

        Sequences of one document are no independent values, documents are: the interval is over documents. None of
        fewer than `FEW`.
        """
        if self.documents < FEW:
            return None
        counts_s = self.rows.every_count().sum(1).numpy()
        sums, tokens = (np.bincount(self.document_s, weights=w) for w in (worse_s - better_s, counts_s))
        return ratio_interval(sums.tolist(), tokens.tolist())


@dataclass(frozen=True)
class Halves:
    """Text in two halves.

    Attributes:
        search: what candidates are compared on.
        held_out: what no candidate was compared on.
        of_one: whether all of it is one document, divided at its middle.
    """

    search: Half
    held_out: Half
    of_one: bool = False


def halves_of(documents: Sequence[Encoded], length: int, most: int, seed: int = 0, where: str = "data") -> Halves:
    """Divide documents into two halves of about equally many tokens, cut into sequences of `length` labels.

    A document is in one half only and ends in its end token. A single document is divided at its middle, and a
    sequence between is left out. The half to search on has at most `most` labels, the other one four times as many.
    The seed determines the halves: the same arguments give the same halves. `where` names the documents in
    errors.
    """
    given = [document for document in documents if _counted(document)]
    of_one = len(given) == 1
    if of_one:
        given = _halved(given[0], length)
    order = np.random.default_rng(seed).permutation(len(given)).tolist()
    sizes, hands, tokens = [min(_counted(d), WIDER * most) for d in given], ([], []), [0, 0]
    # long documents first, so that halves are about equal; documents within a factor of two in random order
    for at in sorted(order, key=lambda at: -sizes[at].bit_length()):
        half = int(tokens[1] < tokens[0])  # the shorter one
        hands[half].append(at)
        tokens[half] += sizes[at]
    hands = sorted(hands, key=len)  # an interval needs documents: report on the half with more
    search, held_out = (
        _half([given[at] for at in order if at in hand], length, limit)
        for hand, limit in ((set(hands[0]), most), (set(hands[1]), WIDER * most))
    )
    if not (len(search.rows) and len(held_out.rows)):
        raise ElasticError(f"{where}: {sum(tokens)} tokens to predict, too few for two halves; give more text")
    return Halves(search, held_out, of_one)


def _counted(document: Encoded) -> int:
    """Tokens of a document that are predicted, and count."""
    return max(len(document.ids) - 1, 0) if document.counts is None else int(document.counts[1:].sum())


def _halved(document: Encoded, length: int) -> list[Encoded]:
    """Both ends of a document, without `length` tokens in its middle."""
    ids, counts = document.ids, document.counts
    middle = max(len(ids) - length, 0) // 2
    ends = slice(middle), slice(middle + length, None)
    halves = [Encoded(None, ids[end], None if counts is None else counts[end]) for end in ends]
    return [half for half in halves if _counted(half)]


def _half(documents: Sequence[Encoded], length: int, most: int) -> Half:
    """Sequences of documents, at most `most` labels, of every document in turn."""
    windows: list[Rows] = []
    numbers: list[int] = []
    waiting = deque((number, Rows.windows(d.ids, d.counts, length)) for number, d in enumerate(documents))
    while waiting and most >= 0:
        number, rest = waiting.popleft()
        turn = list(islice(rest, TURN))
        for rows in turn:
            most -= rows.ids_bl.shape[1] - 1
            if most >= 0:
                windows.append(rows)
                numbers.append(number)
        if turn:
            waiting.append((number, rest))
    return Half(Rows.joined(windows), np.array(numbers, dtype=np.int64))


@dataclass(frozen=True)
class Specialized:
    """Result of a search for a task; losses in nats per token.

    Attributes:
        path: the path's shape at the budget, where the search began.
        candidate: the shape with the lowest loss on the half that was searched on; `path` if it has no higher loss.
        searched: losses of the two on that half, the path's first.
        held_out: losses of the two on the other half.
        gain: improvement of the found shape on the other half, over its documents; None for too few documents.
        trials: how many shapes were measured.
    """

    path: Subnet
    candidate: Subnet
    searched: tuple[float, float]
    held_out: tuple[float, float]
    gain: Interval | None
    trials: int

    @property
    def wins(self) -> bool:
        """Whether the found shape is better on both halves, on the held-out one significantly."""
        return self.candidate != self.path and self.gain is not None and self.gain.above_zero

    @property
    def shape(self) -> Subnet:
        """The found shape if it wins, else the path's."""
        return self.candidate if self.wins else self.path

    def to_json(self, family: Family) -> dict[str, Any]:
        """All figures and both shapes."""

        def row(at: int, subnet: Subnet) -> dict[str, Any]:
            return {
                "parameters": parameters(family.parent, subnet),
                "searched": self.searched[at],
                "held_out": self.held_out[at],
                "subnet": subnet.to_json(),
            }

        low, high = (None, None) if self.gain is None else (self.gain.low, self.gain.high)
        return {
            "wins": self.wins,
            "gain": {"mean": self.held_out[0] - self.held_out[1], "low": low, "high": high},
            "trials": self.trials,
            "path": row(0, self.path),
            "found": row(1, self.candidate),
        }


def specialize(
    family: FamilyRuntime,
    manifest: Family,
    start: Subnet,
    budget: Budget,
    halves: Halves,
    candidates: int = 128,
    seed: int = 0,
    batch: int = 8,
    progress: Callable[[int, int, Trial], None] | None = None,
) -> Specialized:
    """Search the shapes inside a family for the one with the lowest loss on some text.

    The axes, members and drop order of `manifest` make the space (`search.trained_space`). `start` is the path's shape
    at the budget (`core.sizes.path`), and one of the `candidates` that are measured. `progress` is called after every
    measurement with (number, candidates, trial). The same arguments give the same result. `ElasticError` where the
    loss of the start is no number, or the budget is above the parent.
    """

    def losses(subnet: Subnet, half: Half) -> np.ndarray:
        loss_s = half.losses(family.select(subnet), batch)
        family.release()  # one shape's slices at a time
        return loss_s

    result = search(
        trained_space(manifest, start),
        [budget],
        lambda subnet: halves.search.loss(losses(subnet, halves.search)),
        candidates,
        seed,
        progress,
        start,
    )
    known = {trial.member: trial.loss for trial in result.trace}
    candidate = result.members[budget.name]
    path_s, candidate_s = (losses(shape, halves.held_out) for shape in (start, candidate))
    if not all(map(math.isfinite, (known[start], path_s.sum(), candidate_s.sum()))):
        raise ElasticError(
            "the loss of the start's shape on this data is not a number; the family's weights are damaged"
        )
    return Specialized(
        start,
        candidate,
        (known[start], known[candidate]),
        (halves.held_out.loss(path_s), halves.held_out.loss(candidate_s)),
        halves.held_out.gain(path_s, candidate_s),
        len(result.trace),
    )
