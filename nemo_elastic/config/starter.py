# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An `elastic:` block to start with, for any parent: two members and the axes that published families cut."""

from __future__ import annotations

from collections.abc import Iterator

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.attention import ATTENTION_HEADS
from nemo_elastic.core.kinds.mamba import MAMBA_HEADS
from nemo_elastic.core.kinds.mlp import FFN
from nemo_elastic.core.kinds.moe import EXPERT_FFN, SHARED_FFN
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN, layer_axes

#: axes in channels, which products of matrices want in multiples of this
_CHANNELS, _MULTIPLE = (HIDDEN, FFN, EXPERT_FFN, SHARED_FFN), 128
_BLOCK = """\
elastic:
  budgets:
    - {name: full}
    - {name: large, ratio: 0.72}
    - {name: small, ratio: 0.5}
  axes:
"""


def starter_block(parent: Parent) -> str:
    """The block as YAML: widths in eighths of the parent's down to a half, layers down to 7/8."""
    axes = {name: widths for name, widths in _choices(parent) if len(widths) > 1}
    return _BLOCK + "".join(f"    {name}: {widths}\n" for name, widths in axes.items())


def _choices(parent: Parent) -> Iterator[tuple[str, list[int]]]:
    """Axis and its choices, largest first; one where the parent is too small for more."""
    for name in (*_CHANNELS, MAMBA_HEADS, ATTENTION_HEADS):
        if name == HIDDEN or layer_axes()[name][0].name in parent.types:
            axis = parent.axis(name)
            unit = axis.blocks
            if name in _CHANNELS:  # of a small parent a smaller power of two
                unit = min(_MULTIPLE, 1 << max(0, (axis.size // 16).bit_length() - 1))
            widths = {axis.size, *(axis.size * eighths // 8 // unit * unit for eighths in (7, 6, 5, 4))}
            yield name, sorted((width for width in widths if width >= max(unit, axis.least)), reverse=True)
    layers = len(parent.types)
    yield DEPTH, sorted({layers, layers * 15 // 16, layers * 7 // 8}, reverse=True)
