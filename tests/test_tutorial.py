# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tutorial's commands print what stands below them."""

from __future__ import annotations

import re
from pathlib import Path

from tools import tutorial

#: what another processor computes a little differently
COMPUTED = re.compile(r"\d+\.\d+(e[-+]\d+)?")


def test_it_is_what_its_commands_print(tmp_path: Path) -> None:
    text = tutorial.PAGE.read_text(encoding="utf-8")
    assert len(tutorial.PAIR.findall(text)) == 2
    actual, wanted = (COMPUTED.sub("#", each) for each in (tutorial.page(text, tmp_path), text))
    assert actual == wanted, "run: .venv/bin/python tools/tutorial.py"
