# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A figure as an SVG that lies in a page: colours are the page's CSS variables, text is text."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

from .palette import PALETTE

#: `metadata` of matplotlib that leaves all of it out
NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_VARIABLES = {light: f"var(--{name})" for name, (light, _) in PALETTE.items()}
_COLOUR = re.compile("#[0-9a-f]{6}")
_LONG = re.compile(r"-?\d+\.\d{2,}")


def inline(figure: Figure, name: str, told: str) -> str:
    """Give the figure as an `<svg>` element for an HTML page whose style has the palette's variables.

    Text that crosses lines (see `style.halo`) is outlined by the page, in class `halo`.

    Args:
        figure: In the palette's light values, which it may share with others of the page.
        name: Of its ids, which are the page's.
        told: What it shows, for those who do not see it.
    """
    outlined = {text: text.get_path_effects() for text in figure.findobj(Text) if text.get_path_effects()}
    for text in outlined:
        text.set(path_effects=[], gid="halo")  # effects would turn it into outlines of letters
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=NOTHING, transparent=True)
    for text, effects in outlined.items():
        text.set_path_effects(effects)
    root = ElementTree.fromstring(out.getvalue())
    defined = {e.get("id") for e in root.iter() if not e.tag.endswith("}g")}
    for element in root.iter():
        _plain(element, name, defined)
    width, height = figure.get_size_inches() * 72
    root.attrib = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": told}
    style = root.find("defs/style")
    if style is not None:
        style.text = ""  # a rule for everything in the page
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _plain(element: ElementTree.Element, name: str, defined: set[str | None]) -> None:
    """One element as HTML has it, short."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {}
    for key, value in element.attrib.items():
        key = key.rpartition("}")[2]
        if key == "id" and value not in defined:  # names of groups, the same in every figure
            if value == "halo":
                attributes["class"] = value
            continue
        if key == "fill":  # of a hatch's ground
            key, value = "style", f"fill: {value}"
        if key == "style":
            value = _COLOUR.sub(lambda m: _VARIABLES[m[0]], value)
        elif key in ("d", "x", "y", "transform"):
            value = _LONG.sub(lambda m: f"{float(m[0]):.1f}", " ".join(value.split()))
        attributes[key] = value
    element.attrib = attributes
    element.tail = None
    if element.text and not element.text.strip():
        element.text = None
