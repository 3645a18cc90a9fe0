# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`Rows`: the tokens that every part of the package hands to another, and how much the loss counts each label.

b: rows, l: positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from nemo_elastic.nn.documents import Documents

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """Rows of tokens, all of one length.

    Attributes:
        ids_bl: token ids.
        counts_bl: how much the loss counts what each position predicts, the token behind it, float32; None where all
            positions count alike.
        documents: where documents end, in rows that have several.
    """

    ids_bl: torch.Tensor
    counts_bl: torch.Tensor | None = None
    documents: Documents | None = None

    @classmethod
    def of(cls, rows: Rows | torch.Tensor) -> Rows:
        """Rows as they are, or token ids [b, l] of which all count."""
        return cls(rows) if isinstance(rows, torch.Tensor) else rows

    @classmethod
    def masked(cls, ids_bl: torch.Tensor, mask_bl: torch.Tensor | None, documents: Documents | None) -> Rows:
        """Rows with a loss mask, which is left out where it masks nothing."""
        counts_bl = None if mask_bl is None or bool((mask_bl == 1).all()) else mask_bl.float()
        return cls(ids_bl, counts_bl, documents)

    @classmethod
    def document(cls, ids: Sequence[int] | np.ndarray, counts: np.ndarray | None = None) -> Rows:
        """A document as one row. `counts` says whether each token counts as a label; None for all but the first."""
        ids_l, counts_l = torch.from_numpy(np.array(ids, dtype=np.int64)), torch.ones(len(ids))
        if counts is not None:
            counts_l[:-1] = torch.from_numpy(np.array(counts[1:], dtype=np.float32))
        counts_l[-1] = 0  # the label of the last token is not there
        return cls(ids_l[None], counts_l[None])

    @classmethod
    def windows(cls, ids: np.ndarray, counts: np.ndarray | None, length: int) -> Iterator[Rows]:
        """A document as rows of one window each: up to `length` inputs, and behind them the last label.

        A window starts at the last label of the one before it, so that every token but the first is a label once.
        Windows without a label that counts are left out. A memory map is read window by window.
        """
        for at in range(0, len(ids) - 1, length):
            part = slice(at, at + length + 1)
            rows = cls.document(ids[part], None if counts is None else counts[part])
            if rows.counted:
                yield rows

    @classmethod
    def continuation(cls, context: Sequence[int] | np.ndarray, rest: Sequence[int] | np.ndarray) -> Rows:
        """A row of tokens of which the last ones count, behind a context of at least one token."""
        ids = [*context, *rest]
        return cls.document(ids, np.arange(len(ids)) >= len(context))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of one document each and of any lengths as rows of the longest."""
        longest = max((rows.ids_bl.shape[1] for rows in parts), default=0)
        parts = [rows.padded(longest) for rows in parts]
        if not parts:
            return cls(torch.zeros(0, 0, dtype=torch.long))
        counts = [rows.every_count() for rows in parts]
        return cls(torch.cat([rows.ids_bl for rows in parts]), torch.cat(counts))

    def inputs(self) -> Rows:
        """The rows without their last tokens, which are labels alone."""
        return Rows.masked(self.ids_bl[:, :-1], None if self.counts_bl is None else self.counts_bl[:, :-1], None)

    def __len__(self) -> int:
        return len(self.ids_bl)

    @property
    def counted(self) -> float:
        """The sum of the counts."""
        return self.ids_bl.numel() if self.counts_bl is None else float(self.counts_bl.double().sum())

    def every_count(self) -> torch.Tensor:
        """The counts, [b, l], ones where none are given."""
        return torch.ones_like(self.ids_bl, dtype=torch.float32) if self.counts_bl is None else self.counts_bl

    def __getitem__(self, part: slice) -> Rows:
        """Some of the rows, as a copy: a view would keep the others alive."""
        ids_bl, documents = self.ids_bl[part].clone(), None
        counts_bl = None if self.counts_bl is None else self.counts_bl[part].clone()
        if self.documents is not None and len(ids_bl):
            documents = Documents(self.documents.ends[part])
        return Rows(ids_bl, counts_bl, documents if documents is not None and documents.several else None)

    def split(self, size: int) -> list[Rows]:
        """All rows, up to `size` at a time."""
        return [self[at : at + size] for at in range(0, len(self), size)]

    def padded(self, length: int) -> Rows:
        """Rows of at least their own length; what is added counts for nothing, and is a document of its own."""
        more = length - self.ids_bl.shape[1]
        if not more:
            return self
        documents = self.documents and Documents(tuple((*row, length) for row in self.documents.ends))
        return Rows(F.pad(self.ids_bl, (0, more)), F.pad(self.every_count(), (0, more)), documents)
