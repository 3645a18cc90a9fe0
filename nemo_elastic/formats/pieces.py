# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The kept part of one tensor, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from nemo_elastic.core.prefix import Selection
from nemo_elastic.formats.raw import Raw, Window

from .checksums import PART_BYTES, ReadCheck

__all__ = ["Pieces"]

#: first row, and the one behind the last
Part = tuple[int, int]
#: bytes of the source that one piece spans: few enough to stay in a cache from being read to being written
SPAN = 4 * 2**20
#: bytes that go and are read all the same, where rows stay before and behind them: less than another call costs
GAP = PART_BYTES


class Pieces:
    """What selections keep of a tensor, in order. What lies in a file is read only where it stays, and held against
    the checksums of its folder while it is read: bytes that are not what was written end in an `ElasticError`.

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
        words, columns = self.raw.words, self.selections[1:]
        row = max(1, words[:1].nbytes)
        rows = max(1, self.span // row)
        runs = self.selections[0].runs if self.selections else ((0, len(words)),)
        parts = [(at, min(stop, at + rows)) for start, stop in runs for at in range(start, stop, rows)]
        window = Window(self.raw.extent) if self.raw.extent is not None else None
        watch = self.raw.watch(words if window is None else window, self.right)
        whole = all(selection.is_full for selection in columns)
        for together in _together(parts, rows):
            if whole and len(together) == 1:
                yield from map(np.ascontiguousarray, self._rows(together, watch, window, kept=True))
                continue
            piece, at = np.empty((sum(b - a for a, b in together), *self.shape[1:]), words.dtype), 0
            for near in _near(together, rows, GAP // row):
                for some in self._rows(near, watch, window, kept=False):
                    for dim, selection in enumerate(columns, 1):
                        some = selection.take(some, dim)
                    piece[at : at + len(some)] = some
                    at += len(some)
            yield piece
        watch.end()

    def _rows(self, near: list[Part], watch: ReadCheck, window: Window | None, kept: bool) -> Iterator[np.ndarray]:
        """Rows that stay, held against their checksums; of a file they are read together, to ends of parts.

        Those that are not kept are gone when the next are read.
        """
        words = self.raw.words
        row = words[:1].nbytes
        if window is not None:
            watch.leave(near[0][0] * row)  # of the last window, before it goes
            window.load(*watch.around(near[0][0] * row, near[-1][1] * row), kept)
        for start, stop in near:
            watch.reach(start * row, stop * row)
            if window is None:
                yield words[start:stop]
            else:
                yield window[start * row : stop * row].view(words.dtype).reshape(stop - start, *words.shape[1:])

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


def _together(parts: list[Part], rows: int) -> Iterator[list[Part]]:
    """Parts that make one piece, of up to `rows` rows: a small tensor in stripes is one, not one for each."""
    return _grouped(parts, lambda held, part: sum(b - a for a, b in [*held, part]) > rows)


def _near(parts: list[Part], rows: int, gap: int) -> Iterator[list[Part]]:
    """Parts that are read in one go: with gaps of up to `gap` rows, and `rows` rows from the first to the last."""
    return _grouped(parts, lambda held, part: part[0] - held[-1][1] > gap or part[1] - held[0][0] > rows)


def _grouped(parts: list[Part], apart: Callable[[list[Part], Part], bool]) -> Iterator[list[Part]]:
    """Parts in their order, a new group where one is apart from those before it."""
    held: list[Part] = []
    for part in parts:
        if held and apart(held, part):
            yield held
            held = []
        held.append(part)
    if held:
        yield held
