# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a ranking and a search read: rows of tokens, how much each token counts, and where documents lie in them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from nemo_elastic.nn.documents import Documents

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """Sequences of a batch.

    Attributes:
        tokens_bl: token ids.
        weights_bl: of each token, as the loss weighs what it predicts; None where all count alike.
        documents: of the rows, where they hold several that are kept apart.
    """

    tokens_bl: torch.Tensor
    weights_bl: torch.Tensor | None = None
    documents: Documents | None = None

    @classmethod
    def of(cls, rows: Rows | torch.Tensor) -> Rows:
        """Rows as they are, or tokens [b, l] that all count."""
        return cls(rows) if isinstance(rows, torch.Tensor) else rows

    @classmethod
    def masked(cls, tokens_bl: torch.Tensor, mask_bl: torch.Tensor | None, documents: Documents | None) -> Rows:
        """Rows of a loss mask, which is left out where it masks nothing."""
        weights_bl = None if mask_bl is None or bool((mask_bl == 1).all()) else mask_bl.float()
        return cls(tokens_bl, weights_bl, documents)

    def __len__(self) -> int:
        return len(self.tokens_bl)

    @property
    def counted(self) -> float:
        """The sum of the weights."""
        return self.tokens_bl.numel() if self.weights_bl is None else float(self.weights_bl.double().sum())

    def __getitem__(self, part: slice) -> Rows:
        """Some of the rows, as a copy: a view would keep the others alive."""
        tokens_bl, documents = self.tokens_bl[part].clone(), None
        weights_bl = None if self.weights_bl is None else self.weights_bl[part].clone()
        if self.documents is not None and len(tokens_bl):
            documents = Documents(self.documents.ends[part])
        return Rows(tokens_bl, weights_bl, documents if documents is not None and documents.several else None)

    def split(self, size: int) -> list[Rows]:
        """All rows, up to `size` at a time."""
        return [self[at : at + size] for at in range(0, len(self), size)]

    def padded(self, length: int) -> Rows:
        """Rows of a length of at least their own; what is added counts for nothing, and is a document of its own."""
        more = length - self.tokens_bl.shape[1]
        if not more:
            return self
        weights_bl = (
            torch.ones_like(self.tokens_bl, dtype=torch.float32) if self.weights_bl is None else self.weights_bl
        )
        documents = self.documents and Documents(tuple((*row, length) for row in self.documents.ends))
        return replace(
            self,
            tokens_bl=F.pad(self.tokens_bl, (0, more)),
            weights_bl=F.pad(weights_bl, (0, more)),
            documents=documents,
        )
