# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A member in FP8 in vLLM on a CPU says what our runtime says; `low_precision` tries all precisions and layouts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nemo_elastic.formats.schemes import MODELOPT

from .cases import ROOT
from .low_precision import CASES, DENSE, NOISE, RUNS, by_vllm, write_folders

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
