# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which weights low precision stores, and which widths it can cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.mamba import MAMBA
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.layout import selection
from nemo_elastic.errors import bad

__all__ = ["BLOCK", "FP8", "LARGEST", "NVFP4", "SCHEMES", "check_blocks", "default_rows", "low_layers", "torn_widths"]

#: e2m1 in blocks of 16 with e4m3 scales under one fp32 scale; e4m3 under one fp32 scale
NVFP4, FP8 = "nvfp4", "fp8"
SCHEMES = (NVFP4, FP8)
#: columns of an NVFP4 block
BLOCK = 16
#: largest representable number under the global scale 1
LARGEST = {NVFP4: 6.0 * 448.0, FP8: 448.0}


def default_rows(parent: Parent) -> frozenset[tuple[str, int]]:
    """Rows of the layout table that low precision quantizes, each with the index of its layer.

    These are the weights of matrix products in layers, except attention and a Mamba layer directly before one, which
    the Nemotron 3 Nano technical report keeps in bf16. Latent projections, embeddings, head, convolutions, routers and
    norms stay in bf16 as well.
    """
    return frozenset(
        (row.name, index)
        for index in low_layers(parent)
        for row in parent.kind(parent.types[index]).rows
        if row.quantized
    )


@lru_cache(maxsize=64)
def low_layers(parent: Parent) -> frozenset[int]:
    """Indices of the layers that are quantized; see `default_rows`."""
    kept = parent.attention_layers
    before = {i - 1 for i in kept if i and parent.types[i - 1] == MAMBA}
    return frozenset(
        i
        for i, name in enumerate(parent.types)
        if i not in kept | before and any(row.quantized for row in parent.kind(name).rows)
    )


def check_blocks(
    parent: Parent,
    axes: Mapping[str, Sequence[int]],
    scheme: str,
    tensor: tuple[str, int] = ("", 1),
    expert_tensor: tuple[str, int] = ("", 1),
) -> None:
    """Raise for member widths, or parallel sizes, that split an NVFP4 block: its codes would differ from the parent's.

    Args:
        parent: shape with the blocks.
        axes: axis -> choices of members (`ElasticConfig.choices`).
        scheme: of the weights; FP8 has no blocks.
        tensor, expert_tensor: name and size of the parallelism that divides the columns.
    """
    if scheme != NVFP4:
        return
    for row, index in _first(parent).items():
        columns = selection(parent, row, 1, parent.full, parent.full, index).size
        if columns % BLOCK:
            allowed = f"{FP8}: the {columns} columns of {row.name} are no blocks of {BLOCK}"
            raise bad("elastic.distill.quantize", scheme, allowed)
        where, ranks = tensor if row.each is None else expert_tensor
        if row.parallel == 1 and columns % (ranks * BLOCK):
            raise bad(
                where, ranks, f"ranks that share the {columns} columns of {row.name} in blocks of {BLOCK}: {scheme}"
            )
    for (axis, row), widths in torn_widths(parent, axes).items():
        whole = f"a width that cuts {row} between blocks of {BLOCK} columns; quantize is {scheme}"
        raise bad(f"elastic.axes.{axis}", widths[0], whole)


def torn_widths(parent: Parent, axes: Mapping[str, Sequence[int]]) -> dict[tuple[str, str], list[int]]:
    """Choices that split NVFP4 blocks, so that a cut cannot reuse the parent's bytes.

    Args:
        parent: shape with the blocks.
        axes: axis -> choices of members (`ElasticConfig.choices`).

    Returns:
        (axis, name of a row) -> widths, in the order of axes and of the layout table.
    """
    out: dict[tuple[str, str], list[int]] = {}
    first = _first(parent)
    for axis, widths in axes.items():
        for width in widths if axis != DEPTH else ():
            member = parent.uniform(None, **{axis: width})
            for row, index in first.items():
                if selection(parent, row, 1, parent.full, member, index).in_blocks(BLOCK) is None:
                    out.setdefault((axis, row.name), []).append(width)
    return out


def _first(parent: Parent) -> dict[Row, int]:
    """Each quantized row with the first layer where it is quantized."""
    first: dict[Row, int] = {}
    for index in sorted(low_layers(parent)):
        for row in parent.kind(parent.types[index]).rows:
            if row.quantized:
                first.setdefault(row, index)
    return first
