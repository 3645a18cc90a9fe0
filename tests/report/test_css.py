# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The one style sheet: every class has a rule, every variable a value."""

from __future__ import annotations

import re
from pathlib import Path

from nemo_elastic.report import html_page
from nemo_elastic.report.html_page import render
from nemo_elastic.report.palette import PALETTE
from nemo_elastic.report.run_record import RunRecord

STYLE = render(RunRecord(Path("run")), {}).partition("<style>")[2].partition("</style>")[0]
(ROOT,) = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)


def test_every_brace_is_closed() -> None:
    depth = 0
    for brace in re.findall(r"[{}]", STYLE):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0 and STYLE.isascii()


def test_every_variable_that_is_used_has_a_value() -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", STYLE))
    values = dict(re.findall(r"--([\w-]+): ([^;]+);", ROOT))
    assert used <= set(values) and {name: values[name] for name in PALETTE} == PALETTE


def test_every_class_of_the_page_has_a_rule() -> None:
    written = (Path(html_page.__file__).with_name("page.html")).read_text("utf-8")
    classes = {word for words in re.findall(r'class="([\w ]+)"', written) for word in words.split()}
    assert {"tile", "plot", "box", "notes"} <= classes
    assert [name for name in classes if not re.search(rf"\.{name}\b", STYLE)] == []
