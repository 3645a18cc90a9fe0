# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Spaces that several tests search, and a strategy for any small one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.kinds.registry import DEPTH, layer_axes, per_layer_axes
from nemo_elastic.plan import preset
from nemo_elastic.search import Space
from tests.shapes import NANO_12B
from tests.strategies import parents

NANO = ElasticConfig.from_dict(
    {
        "budgets": [{"name": "12b"}, {"name": "9b", "params": 8.9e9}, {"name": "6b", "params": 6.0e9}],
        "axes": {
            "hidden": [5120, 4480, 3840, 3584],
            "ffn": {"choices": [20480, 15360, 12288, 10240], "per_layer": True, "stripes": 8},
            "mamba_heads": {"choices": [128, 112, 96, 80], "per_layer": False},
            "mamba_head_dim": [80, 64],
            "attention_heads": {"choices": [40, 32, 24], "per_layer": False},
            "depth": [62, 58, 54],
        },
    }
)

#: twelve layers, awkward on purpose, small enough for thousands of members
SMALL = replace(preset("nemotron-h-tiny"), vocab=512, ffn_stripes=4, attention_heads=8, attention_head_dim=16)
SMALL_AXES = {
    "hidden": AxisConfig((128, 112, 96, 80, 64)),
    "ffn": AxisConfig((512, 384, 320, 256, 128), per_layer=True),
    "mamba_heads": AxisConfig((16, 12, 8, 4), per_layer=True),
    "mamba_head_dim": AxisConfig((16, 12)),
    "attention_heads": AxisConfig((8, 6, 4)),
    "depth": AxisConfig((12, 11, 10, 9, 8), keep_attention=0),
}
SMALL_DROPS = (5, 3, 10, 8, 7, 1, 0, 2, 4, 6, 9, 11)
BUDGETS = (Budget("full"), Budget("large", ratio=0.72), Budget("small", ratio=0.5))


def nano_space() -> Space:
    parent = NANO.parent_shape(NANO_12B)
    return Space(parent, NANO.resolve_axes(parent), range(61, -1, -1))


def small_space(**axes: AxisConfig) -> Space:
    return Space(SMALL, SMALL_AXES | axes, SMALL_DROPS)


@st.composite
def spaces(draw: st.DrawFn, max_layers: int = 5) -> Space:
    """Any choices of any axes of any small parent, layers dropped in any order."""
    parent = draw(parents(max_layers=max_layers))
    axes: dict[str, AxisConfig] = {}
    for axis in parent.axes:
        if axis == DEPTH:
            full, blocks = parent.num_layers, 1
        else:
            if axis in layer_axes() and layer_axes()[axis][0].symbol not in parent.pattern:
                continue
            full, blocks = parent.axis(axis).size, parent.axis(axis).blocks
        least = 1 if axis == DEPTH else parent.axis(axis).least
        smaller = [k * blocks for k in range(-(-least // blocks), full // blocks)]
        chosen = draw(st.sets(st.sampled_from(smaller), max_size=3)) if smaller else set()
        own = axis in per_layer_axes() and draw(st.booleans())
        axes[axis] = AxisConfig((full, *sorted(chosen, reverse=True)), per_layer=own)
    return Space(parent, axes, draw(st.permutations(range(parent.num_layers))))


@st.composite
def codes(draw: st.DrawFn, space: Space) -> tuple[int, ...]:
    return tuple(draw(st.integers(0, int(n) - 1)) for n in space.sizes)
