# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where documents end in a micro-batch whose rows hold several: no layer reads over their bounds.

The convolution and the state of a Mamba layer start anew at each document, and a query of attention sees its own
document's keys alone. All other layers see one position at a time. What a packed row gives is what its documents give
alone, in outputs and in every gradient (`tests/nn/test_documents.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch

from nemo_elastic.errors import bad

__all__ = ["Documents"]


@dataclass(frozen=True)
class Documents:
    """The documents of each row, one behind the other.

    Numbers of the host, not of a device: attention runs each document by itself, and no step waits for a GPU to say
    how long it is.

    Attributes:
        ends: of each row the positions behind its documents, ascending; the last one is the rows' length.
    """

    ends: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        lengths = {row[-1] if row else 0 for row in self.ends}
        rising = all(a < b for row in self.ends for a, b in pairwise((0, *row)))
        if len(lengths) != 1 or 0 in lengths or not rising:
            raise bad(
                "documents", self.ends, "ascending ends in each row; the last end is the length, the same in all rows"
            )

    @classmethod
    def of_bounds(cls, bounds: torch.Tensor, length: int) -> Documents:
        """From cumulative lengths, [n] of one row or [b, n], as packed data carries them.

        They may begin with 0, repeat themselves (documents of no token) and be filled up with negative numbers. What
        is behind the last one is a document of its own.
        """
        rows = bounds.reshape(-1, bounds.shape[-1]).tolist()
        return cls(tuple(_ends((end for end in row if end > 0), length) for row in rows))

    @classmethod
    def of_positions(cls, positions_bl: torch.Tensor) -> Documents:
        """From positions [b, l] that count within documents: one begins wherever they do not go on by 1."""
        anew = positions_bl[:, 1:] != positions_bl[:, :-1] + 1
        return cls.of_starts(anew)

    @classmethod
    def of_mask(cls, masked_blk: torch.Tensor) -> Documents:
        """From a block-causal mask [b, l, l], True where a query may not look: one begins where the last is hidden."""
        return cls.of_starts(masked_blk.diagonal(-1, 1, 2))

    @classmethod
    def of_starts(cls, anew_bl: torch.Tensor) -> Documents:
        """From whether each position behind the first begins a document, [b, l - 1]."""
        length = anew_bl.shape[1] + 1
        return cls(tuple(_ends((at + 1 for at in row.nonzero()[:, 0].tolist()), length) for row in anew_bl.bool()))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and their length."""
        return len(self.ends), self.ends[0][-1]

    @property
    def several(self) -> bool:
        """Whether any row has more than one: otherwise no bound lies inside of a row."""
        return any(len(row) > 1 for row in self.ends)

    @property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """Tokens of each document of each row."""
        return tuple(tuple(b - a for a, b in pairwise((0, *row))) for row in self.ends)

    def index(self, device: torch.device) -> torch.Tensor:
        """The number of each position's document in its row, int32 [b, l]: `seq_idx` of mamba_ssm's kernels."""
        return _index(self, device)

    def check(self, shape: Sequence[int]) -> Documents:
        """Return self if it is of tokens of this shape, else raise `ElasticError`."""
        if self.shape != tuple(shape):
            raise bad("documents", self.shape, f"the rows and length of the tokens, {tuple(shape)}")
        return self


def _ends(bounds: Iterable[int], length: int) -> tuple[int, ...]:
    return (*sorted({end for end in bounds if end < length}), length)


@lru_cache(maxsize=16)
def _index(documents: Documents, device: torch.device) -> torch.Tensor:
    """Made once for all layers of a micro-batch."""
    rows = [
        torch.repeat_interleave(torch.arange(len(row), dtype=torch.int32), torch.tensor(row), output_size=sum(row))
        for row in documents.lengths
    ]
    return torch.stack(rows).to(device)
