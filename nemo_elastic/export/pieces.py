# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The kept part of one tensor, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nemo_elastic.prefix import Selection

__all__ = ["Pieces"]

#: bytes of the source that one piece spans
SPAN = 16 * 2**20


class Pieces:
    """What selections keep of an array, in order. What is mapped from a file is read only where it stays.

    Args:
        words: The array, at least one dimension.
        selections: What each dimension keeps; everything if there are none.
        span: Bytes of the array that one piece spans.
    """

    def __init__(self, words: np.ndarray, selections: tuple[Selection, ...] = (), span: int = SPAN) -> None:
        self.words, self.selections, self.span = words, selections, span

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is kept."""
        return tuple(s.kept_size for s in self.selections) if self.selections else tuple(self.words.shape)

    def __call__(self) -> Iterator[np.ndarray]:
        """Give contiguous pieces along the first dimension."""
        rows = max(1, self.span // max(1, self.words[:1].nbytes))
        runs = self.selections[0].runs if self.selections else ((0, len(self.words)),)
        for start, stop in runs:
            for at in range(start, stop, rows):
                piece = self.words[at : min(stop, at + rows)]
                for dim, selection in enumerate(self.selections[1:], 1):
                    piece = selection.take(piece, dim)
                yield np.ascontiguousarray(piece)

    def whole(self) -> np.ndarray:
        """Give it in one array; a view where the layout allows one."""
        out = self.words
        for dim, selection in enumerate(self.selections):
            out = selection.take(out, dim)
        return out
