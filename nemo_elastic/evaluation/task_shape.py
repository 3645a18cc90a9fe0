# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The right shape for a task: a search inside a trained family by its loss on the task's own text.

Documents are dealt out to two halves, one to choose by, one to say how good the choice is. The path's shape at the
budget is the start. What the search finds is compared with it on the other half, sequence by sequence, and is taken
only if it is better there as well: a search over a hundred shapes always finds one that is better on what it searched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime import FamilyRuntime
from nemo_elastic.search import Trial, search, trained_space
from nemo_elastic.verdicts import FEW, Interval, mean_interval

from .perplexity import sequence_losses

#: a piece of a document has no more sequences than this
PIECE = 8
#: the half to report on is read to so many times as many tokens: it is run twice, not for every candidate
WIDER = 4


@dataclass(frozen=True)
class Halves:
    """Token ids of sequences of one length, [s, l + 1] each: l tokens of each are predicted.

    Attributes:
        search_sl: what candidates are compared on.
        held_out_sl: what no candidate was compared on.
        search_counts_sl, held_out_counts_sl: which of their tokens the loss counts; None for all.
    """

    search_sl: np.ndarray
    held_out_sl: np.ndarray
    search_counts_sl: np.ndarray | None = None
    held_out_counts_sl: np.ndarray | None = None

    @property
    def search_tokens(self) -> int:
        """Tokens that are predicted, and count, in the half to search on."""
        return _predicted(self.search_sl, self.search_counts_sl)

    @property
    def held_out_tokens(self) -> int:
        """Tokens that are predicted, and count, in the other half."""
        return _predicted(self.held_out_sl, self.held_out_counts_sl)


def halves_of(
    documents: Sequence[np.ndarray],
    length: int,
    most: int,
    seed: int = 0,
    where: str = "data",
    counts: Sequence[np.ndarray | None] | None = None,
) -> Halves:
    """Deal documents out to two halves and cut each half into sequences.

    Args:
        documents: token ids of each; what ends a document is among them.
        length: tokens that are predicted in a sequence.
        most: predicted tokens of the half to search on; the other one has at most four times as many.
        seed: of the order in which documents are dealt.
        where: what the documents are, for errors.
        counts: which tokens of each the loss counts, None for all. Sequences without one are left out.

    Returns:
        The halves; the same arguments give the same ones.

    Raises:
        ElasticError: a half has too few sequences for an interval.
    """
    masks = [None] * len(documents) if counts is None else counts
    both = (_with_counts(np.asarray(ids), mask) for ids, mask in zip(documents, masks, strict=True))
    pieces = [piece for document in both for piece in _pieces(document, PIECE * (length + 1))]
    hands: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    sizes = [0, 0]
    for at in np.random.default_rng(seed).permutation(len(pieces)):
        half = int(sizes[1] < sizes[0])  # the shorter one
        hands[half].append(pieces[at])
        sizes[half] += len(pieces[at])
    search_sl2, held_out_sl2 = (
        _sequences(hand, length, limit) for hand, limit in zip(hands, (most, WIDER * most), strict=True)
    )
    search_sl, held_out_sl = search_sl2[..., 0], held_out_sl2[..., 0]
    count = min(len(search_sl), len(held_out_sl))
    if count < FEW:
        raise ElasticError(
            f"{where}: {sum(sizes)} tokens make {count} sequences of {length} in each half, and at least {FEW} are "
            "needed; give more text, more --tokens or a smaller --seq-length"
        )
    if counts is None:
        return Halves(search_sl, held_out_sl)
    return Halves(search_sl, held_out_sl, search_sl2[..., 1].astype(bool), held_out_sl2[..., 1].astype(bool))


def _with_counts(ids: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """Token ids, and whether they count, [t, 2]."""
    return np.stack([ids.astype(np.int64), np.ones_like(ids, np.int64) if counts is None else counts], axis=-1)


def _pieces(document: np.ndarray, most: int) -> Iterator[np.ndarray]:
    yield from (document[at : at + most] for at in range(0, len(document), most))


def _sequences(pieces: Sequence[np.ndarray], length: int, most: int) -> np.ndarray:
    """Sequences [s, length + 1, 2] of pieces end to end, each starting at the last label of the one before."""
    stream = np.concatenate(pieces) if pieces else np.zeros((0, 2), dtype=np.int64)
    count = min(max(len(stream) - 1, 0) // length, most // length)
    cut = [stream[i * length : (i + 1) * length + 1] for i in range(count)]
    cut = [sequence for sequence in cut if sequence[1:, 1].any()]
    return np.stack(cut) if cut else np.zeros((0, length + 1, 2), dtype=np.int64)


def _predicted(sequences_sl: np.ndarray, counts_sl: np.ndarray | None) -> int:
    return sequences_sl.shape[0] * (sequences_sl.shape[1] - 1) if counts_sl is None else int(counts_sl[:, 1:].sum())


@dataclass(frozen=True)
class Specialized:
    """What a search for a task found; losses in nats per token.

    Attributes:
        path: the path's shape at the budget, where the search began.
        candidate: the shape with the lowest loss on the half that was searched on; `path` where none is lower.
        searched: losses of the two on that half, the path's first.
        held_out: losses of the two on the other half.
        gain: by how much the found shape is better on the other half, over pairs of losses of each sequence.
        trials: how many shapes were measured.
    """

    path: Subnet
    candidate: Subnet
    searched: tuple[float, float]
    held_out: tuple[float, float]
    gain: Interval
    trials: int

    @property
    def wins(self) -> bool:
        """Whether the found shape is better on both halves, and on the held-out one by more than chance."""
        return self.candidate != self.path and self.gain.above_zero

    @property
    def shape(self) -> Subnet:
        """The shape to take: the found one where it wins, the path's otherwise."""
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

        gain = {"mean": self.gain.mean, "low": self.gain.low, "high": self.gain.high, "sequences": self.gain.count}
        return {
            "wins": self.wins,
            "gain": gain,
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

    Args:
        family: its weights, all of them.
        manifest: its `elastic.json`: axes, members and drop order make the space (`search.trained_space`).
        start: the path's shape at the budget (`core.sizes.path`).
        budget: the most that the shape may cost; `start` meets it.
        halves: text of the task.
        candidates: how many shapes are measured, the start among them.
        seed: of the search's samples.
        batch: sequences at once.
        progress: called after every measurement with (number, candidates, trial).

    Returns:
        What was found. The same arguments give the same.

    Raises:
        ElasticError: the loss of the path's shape is no number, or the budget is above the parent.
    """

    def losses(subnet: Subnet, sequences_sl: np.ndarray, counts_sl: np.ndarray | None) -> np.ndarray:
        candidate_s = sequence_losses(family.select(subnet), sequences_sl, batch, counts_sl)
        family.release()  # one shape's slices at a time
        return candidate_s

    result = search(
        trained_space(manifest, start),
        [budget],
        lambda subnet: float(losses(subnet, halves.search_sl, halves.search_counts_sl).mean()),
        candidates,
        seed,
        progress,
        start,
    )
    known = {trial.member: trial.loss for trial in result.trace}
    candidate = result.members[budget.name]
    path_s, candidate_s = (
        losses(shape, halves.held_out_sl, halves.held_out_counts_sl) for shape in (start, candidate)
    )
    if not all(map(math.isfinite, (known[start], path_s.sum(), candidate_s.sum()))):
        raise ElasticError("the loss of the path's shape on this data is no number; the family's weights are damaged")
    return Specialized(
        start,
        candidate,
        (known[start], known[candidate]),
        (float(path_s.mean()), float(candidate_s.mean())),
        mean_interval((path_s - candidate_s).tolist()),
        len(result.trace),
    )
