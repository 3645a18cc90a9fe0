# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Long chains of element-wise work, done piece by piece.

Torch runs one operation over a whole tensor before the next begins. Where a chain of them reads and writes tensors
that do not fit a processor's cache, moving them costs more than the arithmetic; so a chain runs over one tile at a
time, in scratch memory that all tiles share, and what it needs beside its results does not grow with the sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

#: elements of a tile on a CPU: 2 MiB in float32, about what the cores' caches hold
CPU_TILE = 1 << 19
#: and elsewhere, where a launch costs more than the memory does
TILE = 1 << 26


def tile_elements(device: torch.device) -> int:
    """Elements that a tile should have on a device."""
    return CPU_TILE if device.type == "cpu" else TILE


def tiles(sizes: Sequence[int], device: torch.device, least: int = 1) -> list[tuple[slice, slice]]:
    """Cuts [outer, inner] cells of `width` elements each into tiles: several whole rows, or a part of one row.

    Args:
        sizes: (outer, inner, width); all tiles of one row of `outer` follow each other, in order.
        device: where the tensors are.
        least: cells that a part of a row has at least, whatever their size.

    Returns:
        Slices of the two dimensions.
    """
    outer, inner, width = sizes
    most = tile_elements(device)
    rows = most // (inner * width)
    if rows:
        return [(slice(i, min(outer, i + rows)), slice(0, inner)) for i in range(0, outer, rows)]
    many = max(least, most // width)
    parts = [slice(j, min(inner, j + many)) for j in range(0, inner, many)]
    return [(slice(i, i + 1), part) for i in range(outer) for part in parts]


class Scratch:
    """Memory for a tile's intermediate results, by name; the next tile's overwrite them."""

    def __init__(self, like: torch.Tensor) -> None:
        self._like = like
        self._held: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, *shape: int) -> torch.Tensor:
        """A contiguous tensor of `shape`, filled with whatever was there."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = self._held[name] = self._like.new_empty(size)
        return held[:size].view(shape)
