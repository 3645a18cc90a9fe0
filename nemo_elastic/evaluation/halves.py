# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Documents of one task in two halves: one to choose by, one to say how good the choice is.

Whole documents go to one half or the other, so that none is on both sides. A document that is long is cut first: one
book alone must have two halves as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_elastic.errors import ElasticError
from nemo_elastic.verdicts import FEW

__all__ = ["Halves", "halves_of"]

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
    """

    search_sl: np.ndarray
    held_out_sl: np.ndarray

    @property
    def search_tokens(self) -> int:
        """Tokens that are predicted in the half to search on."""
        return _predicted(self.search_sl)

    @property
    def held_out_tokens(self) -> int:
        """Tokens that are predicted in the other half."""
        return _predicted(self.held_out_sl)


def halves_of(documents: Sequence[np.ndarray], length: int, most: int, seed: int = 0, where: str = "data") -> Halves:
    """Deal documents out to two halves and cut each half into sequences.

    Args:
        documents: token ids of each; what ends a document is among them.
        length: tokens that are predicted in a sequence.
        most: predicted tokens of the half to search on; the other one has at most four times as many.
        seed: of the order in which documents are dealt.
        where: what the documents are, for errors.

    Returns:
        The halves; the same arguments give the same ones.

    Raises:
        ElasticError: a half has too few sequences for an interval.
    """
    pieces = [piece for document in documents for piece in _pieces(np.asarray(document), PIECE * (length + 1))]
    hands: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    sizes = [0, 0]
    for at in np.random.default_rng(seed).permutation(len(pieces)):
        half = int(sizes[1] < sizes[0])  # the shorter one
        hands[half].append(pieces[at])
        sizes[half] += len(pieces[at])
    search_sl, held_out_sl = (
        _sequences(hand, length, limit) for hand, limit in zip(hands, (most, WIDER * most), strict=True)
    )
    found = min(len(search_sl), len(held_out_sl))
    if found < FEW:
        raise ElasticError(
            f"{where}: {sum(sizes)} tokens make {found} sequences of {length} in each half, and at least {FEW} are "
            "needed; give more text, more --tokens or a smaller --seq-length"
        )
    return Halves(search_sl, held_out_sl)


def _pieces(document: np.ndarray, most: int) -> Iterator[np.ndarray]:
    yield from (document[at : at + most] for at in range(0, len(document), most))


def _sequences(pieces: Sequence[np.ndarray], length: int, most: int) -> np.ndarray:
    """Sequences [s, length + 1] of pieces end to end, each starting at the last label of the one before."""
    stream = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
    count = min(max(len(stream) - 1, 0) // length, most // length)
    return np.stack([stream[i * length : (i + 1) * length + 1] for i in range(count)]) if count else stream[:0]


def _predicted(sequences_sl: np.ndarray) -> int:
    return sequences_sl.shape[0] * (sequences_sl.shape[1] - 1)
