# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The colours of a report: each with a value for light pages and one for dark ones, and what it stands for.

Pictures are drawn in the light values; `svg` turns each into a CSS variable, so that a page can show the other.
"""

from __future__ import annotations

from nemo_elastic.core.kinds.registry import KINDS, layer_axes

#: name -> (light, dark); text in any of the first twelve has a contrast of 4.5 and more on paper and on every band
PALETTE: dict[str, tuple[str, str]] = {
    "ink": ("#1b2430", "#e8ecf1"),
    "muted": ("#5f6b7a", "#a3afbd"),
    "grey": ("#68727f", "#98a4b2"),
    "parent": ("#46525f", "#c3ccd6"),
    # blue, orange, green, pink, violet, ochre, teal, red
    "m1": ("#0067a0", "#5bb3ea"),
    "m2": ("#b34d00", "#f39a4d"),
    "m3": ("#007a58", "#3cc79d"),
    "m4": ("#a8407f", "#e08bbf"),
    "m5": ("#6a4fb0", "#ab98f5"),
    "m6": ("#805c00", "#dcb045"),
    "m7": ("#00708a", "#4cc4d4"),
    "m8": ("#b3261e", "#ff8f85"),
    "paper": ("#ffffff", "#1a212b"),
    "edge": ("#aab3be", "#4a5666"),
    "grid": ("#e9edf1", "#2a3340"),
    "hatch": ("#c3cbd4", "#3d4857"),
    "path": ("#b9c6d3", "#44566a"),
    "area": ("#dbe4ec", "#2b3a49"),
    "bar": ("#f0f3f6", "#232c38"),
    "early": ("#9db7cb", "#35536e"),
    "band0": ("#f3f5f8", "#202835"),
    "band1": ("#e8f1f8", "#1c2d3d"),
    "band2": ("#fdf3e4", "#332a1c"),
    "band3": ("#f5eaf5", "#2f2130"),
    "within": ("#e6f3ec", "#1d3329"),
    # shares from 0 to 1 in steps of a tenth; ink is legible on the first six, paper on the others, in both
    "s0": ("#eff4f9", "#222d3a"),
    "s1": ("#d9e8f3", "#233546"),
    "s2": ("#c4dbed", "#243c51"),
    "s3": ("#adcee7", "#26455f"),
    "s4": ("#96c1e0", "#28506e"),
    "s5": ("#7fb4da", "#2a5a7d"),
    "s6": ("#22719f", "#4f9cc9"),
    "s7": ("#16669a", "#67aedc"),
    "s8": ("#0b5a94", "#7fc1ee"),
    "s9": ("#084878", "#a2d3f4"),
    "s10": ("#06365c", "#c4e5fb"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
INK, MUTED, GREY, PAPER, FAINT = (LIGHT[n] for n in ("ink", "muted", "grey", "paper", "grid"))
#: the parent as it was before elastic training; members from the largest
PARENT = LIGHT["parent"]
MEMBERS = tuple(LIGHT[f"m{i}"] for i in range(1, 9))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
#: the axes of a family; those of registered kinds take a colour that is left
_AXES = {
    "hidden": INK,
    "ffn": LIGHT["m6"],
    "mamba_heads": LIGHT["m1"],
    "mamba_head_dim": LIGHT["m5"],
    "attention_heads": LIGHT["m3"],
    "depth": LIGHT["m4"],
    "experts": LIGHT["m2"],
    "expert_ffn": LIGHT["m8"],
}
SHARES = tuple(LIGHT[f"s{i}"] for i in range(11))


def kind_colour(kind: str) -> str:
    """Colour of a kind of layer: that of its first axis."""
    return axis_colour(KINDS[kind].widths[0]) if kind in KINDS else LIGHT["m7"]


def axis_colour(axis: str) -> str:
    """Colour of an axis."""
    return _AXES.get(axis, LIGHT["m7"])


def axis_words(axis: str) -> str:
    """What pictures call an axis."""
    return layer_axes()[axis][1].words if axis in layer_axes() else {"hidden": "hidden width"}.get(axis, axis)


def variables(dark: bool) -> str:
    """The palette as CSS variables."""
    return " ".join(f"--{name}: {values[dark]};" for name, values in PALETTE.items())
