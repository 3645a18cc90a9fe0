# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The kept part of one tensor, a few megabytes at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from nemo_elastic.core.prefix import Selection
from nemo_elastic.formats.raw import Raw

from .checksums import ReadCheck

__all__ = ["Pieces"]

#: bytes of the source that one piece spans: few enough to stay in a cache from being read to being written
SPAN = 4 * 2**20
#: bytes of what is kept that are asked of the disk before their turn: enough to keep it busy while a piece is written
AHEAD = 4 * SPAN


class Pieces:
    """What selections keep of a tensor, in order. What is mapped from a file is read only where it stays, and held
    against the checksums of its folder while it is read: bytes that are not what was written end in an `ElasticError`.

    Args:
        raw: The tensor, at least one dimension. Its words are asked for when they are needed, and once: it may have to
            read them.
        selections: What each dimension keeps; everything if there are none.
        span: Bytes of the tensor that one piece spans.
        right: Parts of it that need no second look; see `ReadCheck`.
    """

    def __init__(
        self, raw: Raw, selections: tuple[Selection, ...] = (), span: int = SPAN, right: set[int] | None = None
    ) -> None:
        self.raw, self.selections, self.span, self.right = raw, selections, span, right

    def want(self, most: int) -> int:
        """Ask the disk for the first of what stays, about `most` bytes, before its turn; gives how many that is.

        A tensor that one piece spans is asked for from its first to its last row: one call costs less than a gap.
        """
        extent = self.raw.extent
        if extent is None or not self.raw.nbytes:
            return 0
        runs = self.selections[0].runs if self.selections else ((0, self.shape[0]),)
        row = self.raw.nbytes // self.raw.shape[0]
        if self.raw.nbytes <= self.span:
            runs = ((runs[0][0], runs[-1][1]),)
        asked = 0
        for start, stop in runs:
            if asked >= most:
                break
            stop = min(stop, start + -(-(most - asked) // row))
            extent.want(start * row, stop * row)
            asked += (stop - start) * row
        return asked

    @property
    def dtype(self) -> str:
        """Dtype of what is kept: the tensor's."""
        return self.raw.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is kept."""
        return tuple(s.kept_size for s in self.selections) if self.selections else self.raw.shape

    def __call__(self) -> Iterator[np.ndarray]:
        """Give contiguous pieces along the first dimension."""
        words = self.raw.words
        rows = max(1, self.span // max(1, words[:1].nbytes))
        runs = self.selections[0].runs if self.selections else ((0, len(words)),)
        parts = [(at, min(stop, at + rows)) for start, stop in runs for at in range(start, stop, rows)]
        row, watch = words[:1].nbytes, self.raw.watch(words, self.right)
        wanted = self._wanted(parts, row, watch)
        for together in _together(parts, rows):
            taken = []
            for start, stop in together:
                next(wanted)
                watch.reach(start * row, stop * row)
                piece = words[start:stop]
                for dim, selection in enumerate(self.selections[1:], 1):
                    piece = selection.take(piece, dim)
                taken.append(piece)
            yield np.ascontiguousarray(taken[0]) if len(taken) == 1 else np.concatenate(taken)
        watch.end()

    def _wanted(self, parts: list[tuple[int, int]], row: int, watch: ReadCheck) -> Iterator[None]:
        """Before each part, ask for those that follow: the system's own guess would also read rows that go."""
        left, ahead = deque(parts), 0
        for start, stop in parts:
            ahead -= stop - start
            while left and ahead * row < AHEAD:
                first, last = left.popleft()
                ahead += last - first
                if self.raw.extent is not None:
                    self.raw.extent.want(*watch.around(first * row, last * row))
            yield

    def whole(self) -> np.ndarray:
        """Give it in one array; a view where the layout allows one."""
        out = self.raw.words
        row, watch = out[:1].nbytes, self.raw.watch(out, self.right)
        for start, stop in self.selections[0].runs if self.selections else ((0, len(out)),):
            watch.reach(start * row, stop * row)
        watch.end()
        for dim, selection in enumerate(self.selections):
            out = selection.take(out, dim)
        return out


def _together(parts: list[tuple[int, int]], rows: int) -> Iterator[list[tuple[int, int]]]:
    """Parts that make one piece, of up to `rows` rows: a small tensor in stripes is one, not one for each."""
    held: list[tuple[int, int]] = []
    for start, stop in parts:
        if held and sum(b - a for a, b in held) + stop - start > rows:
            yield held
            held = []
        held.append((start, stop))
    if held:
        yield held
