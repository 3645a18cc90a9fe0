# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`tools/mathml.py` turns the formulas of pages into MathML, and refuses one that it cannot."""

from __future__ import annotations

import re

import pytest

from tests.documentation import SITE

pytest.importorskip("latex2mathml", reason="the documentation's tools are not installed; the extra `docs` brings them")
from tools.mathml import mathml, on_page_content

FORMULA = re.compile(r"^ *\$\$\n(.*?)\n *\$\$$", re.MULTILINE | re.DOTALL)


def test_a_formula_becomes_mathml_where_it_stands() -> None:
    page = '<p>A</p>\n<div class="arithmatex">\\[\na_c &lt; \\frac{1}{2}\n\\]</div>\n<p>B</p>'
    before, _, rest = on_page_content(html=page, page=None, config=None, files=None).partition("<math")
    assert before == '<p>A</p>\n<div class="formula">' and rest.endswith("</math></div>\n<p>B</p>")
    assert "<mfrac>" in rest and "&lt;" in rest.replace("&#x0003C;", "&lt;")


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\\fraction of the formula"):
        mathml(r"\fraction{1}{2}")


def test_every_formula_of_the_documentation_is_known() -> None:
    formulas = [latex for path in SITE for latex in FORMULA.findall(path.read_text(encoding="utf-8"))]
    assert len(formulas) > 8
    for latex in formulas:
        assert mathml(latex).startswith("<math")
