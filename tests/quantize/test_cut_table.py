# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every width that a block in conf/ lists is cut as bytes, or the block says that it is not."""

from __future__ import annotations

import pytest

from tests.workers import ROOT

from .cut_table import BLOCKS, TABLE, cases, equal, table

#: block -> widths of `ffn` that tear blocks of NVFP4
TORN = {"elastic_9b": {13440, 10752, 8960}, "elastic_4b": {9408, 7840}}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("precision", ["nvfp4", "fp8"])
def test_cuts_are_bytes(block: str, precision: str) -> None:
    torn: set[int] = set()
    for case in cases(block):
        same = {width: equal(case, width, precision) for width in case.kept}
        assert False not in same.values(), case
        torn |= {width for width, one in same.items() if one is None}
    assert torn == (TORN.get(block, set()) if precision == "nvfp4" else set())
    said = "slice --requantize" in (ROOT / "conf" / f"{block}.yaml").read_text()
    assert said == (block in TORN)


def test_the_table_is_this_one() -> None:
    assert TABLE.read_text() == table() + "\n"
