# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A member in FP8 in vLLM on a CPU says what our runtime says; `low_precision` tries all precisions and layouts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nemo_elastic.formats.schemes import MODELOPT

from .cases import ROOT
from .low_precision import CASES, DENSE, NOISE, RUNS, WRONG, Case, by_vllm, judge, table, write_folders

FP8 = next(case for case in CASES if (case.to, case.layout, case.model) == ("fp8", MODELOPT, DENSE))


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.slow
def test_a_member_in_fp8(tmp_path: Path) -> None:
    python = Path(os.environ.get("NEMO_ELASTIC_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python")).absolute()
    if not python.exists():
        pytest.skip("vLLM is not here: `make test-vllm`")
    assert FP8.vllm == RUNS
    (folder,) = write_folders(tmp_path, [FP8]).values()
    said, differ = by_vllm(tmp_path / "vllm", python, folder)
    assert differ is not None, said[-3000:]
    assert differ < NOISE["fp8"]


def test_a_cell_is_judged_by_what_is_expected() -> None:
    """One that runs where it should not, one that is far off, and another error are faults."""
    for expected, said, differ, well in (
        (RUNS, "5.19", 0.01, True), (RUNS, "5.19", 0.9, False), (WRONG, "5.19", 0.9, True),
        (WRONG, "5.19", 0.01, False),
        ("no kernel", "x\nValueError: no kernel for it", None, True), ("no kernel", "out of memory", None, False),
        ("no kernel", "5.19", 0.01, False), (RUNS, "no kernel", None, False),
    ):  # fmt: skip
        cell, fault = judge(FP8, expected, said, differ)
        assert (fault is None) == well and "\n" not in cell


def test_the_page_has_a_row_for_each_case() -> None:
    """The one that was written last: run `python -m tests.vllm.low_precision --markdown` anew where it differs."""
    page = (ROOT / "docs" / "tables" / "low_precision_loads.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    empty: dict[Case, list[str]] = {case: ["", ""] for case in CASES}
    wanted = [line.split(" | ") for line in table(empty, ["", ""]).splitlines() if line.startswith("| ")][1:]
    assert [row[:3] for row in rows] == [row[:3] for row in wanted]
    assert [RUNS in (c.transformers, c.vllm) for c in CASES] == [any(x[0].isdigit() for x in row[3:]) for row in rows]
