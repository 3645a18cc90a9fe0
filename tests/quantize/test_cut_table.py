# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every width that a block in conf/ lists is cut as bytes, or the block says that it is not."""

from __future__ import annotations

from tests.workers import ROOT

from .cut_table import BLOCKS, TABLE, table


def test_the_table_is_this_one() -> None:
    """`table` holds every cut of codes against the codes of the cut, ours and ModelOpt's."""
    made = table()
    assert TABLE.read_text() == made + "\n"
    for block in BLOCKS:
        torn = any(f"| `{block}` |" in line and "torn" in line for line in made.splitlines())
        said = "slice --requantize" in (ROOT / "conf" / f"{block}.yaml").read_text()
        assert said == torn, block
