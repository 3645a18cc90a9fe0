# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The colours of a report and its pictures, and what each stands for."""

from __future__ import annotations

from nemo_elastic.core.kinds.registry import KINDS, layer_axes

#: text in any of the first twelve has a contrast of 4.5 and more on paper and on every band
PALETTE: dict[str, str] = {
    "ink": "#1b2430",
    "muted": "#5f6b7a",
    "grey": "#68727f",
    "parent": "#46525f",
    # blue, orange, green, pink, violet, ochre, teal, red
    "m1": "#0067a0",
    "m2": "#b34d00",
    "m3": "#007a58",
    "m4": "#a8407f",
    "m5": "#6a4fb0",
    "m6": "#805c00",
    "m7": "#00708a",
    "m8": "#b3261e",
    "paper": "#ffffff",
    "edge": "#aab3be",
    "grid": "#e9edf1",
    "hatch": "#c3cbd4",
    "path": "#b9c6d3",
    "area": "#dbe4ec",
    "bar": "#f0f3f6",
    "early": "#9db7cb",
    "band0": "#f3f5f8",
    "band1": "#e8f1f8",
    "band2": "#fdf3e4",
    "band3": "#f5eaf5",
    "within": "#e6f3ec",
    # shares from 0 to 1 in steps of a tenth; ink is legible on the first six, paper on the others
    "s0": "#eff4f9",
    "s1": "#d9e8f3",
    "s2": "#c4dbed",
    "s3": "#adcee7",
    "s4": "#96c1e0",
    "s5": "#7fb4da",
    "s6": "#22719f",
    "s7": "#16669a",
    "s8": "#0b5a94",
    "s9": "#084878",
    "s10": "#06365c",
}
INK, MUTED, GREY, PAPER, FAINT = (PALETTE[n] for n in ("ink", "muted", "grey", "paper", "grid"))
#: the parent as it was before elastic training; members from the largest
PARENT = PALETTE["parent"]
MEMBERS = tuple(PALETTE[f"m{i}"] for i in range(1, 9))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
#: the axes of a family; those of registered kinds take a colour that is left
_AXES = {
    "hidden": INK,
    "ffn": PALETTE["m6"],
    "mamba_heads": PALETTE["m1"],
    "mamba_head_dim": PALETTE["m5"],
    "attention_heads": PALETTE["m3"],
    "depth": PALETTE["m4"],
    "experts": PALETTE["m2"],
    "expert_ffn": PALETTE["m8"],
}
SHARES = tuple(PALETTE[f"s{i}"] for i in range(11))


def kind_colour(kind: str) -> str:
    """Colour of a kind of layer: that of its first axis."""
    return axis_colour(KINDS[kind].widths[0]) if kind in KINDS else PALETTE["m7"]


def axis_colour(axis: str) -> str:
    """Colour of an axis."""
    return _AXES.get(axis, PALETTE["m7"])


def axis_words(axis: str) -> str:
    """What pictures call an axis."""
    return layer_axes()[axis][1].words if axis in layer_axes() else {"hidden": "hidden width"}.get(axis, axis)


def variables() -> str:
    """The palette as CSS variables."""
    return " ".join(f"--{name}: {value};" for name, value in PALETTE.items())
