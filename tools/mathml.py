# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A hook of mkdocs: formulas between `$$` become MathML when the site is built; its pages need no script for them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

#: what pymdownx.arithmatex makes of a formula
FORMULA = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)


def mathml(latex: str) -> str:
    """A formula as MathML.

    Raises:
        ValueError: a command that the converter does not know; it would stand in the page as it was written.
    """
    output = convert(" ".join(latex.split()), display="block")
    if unknown := re.search(r"\\\w+", unescape(output)):
        raise ValueError(f"{unknown[0]} of the formula {latex.strip()!r} is not known")
    return output


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs with each page."""
    return FORMULA.sub(lambda match: f'<div class="formula">{mathml(unescape(match[1]))}</div>', html)
