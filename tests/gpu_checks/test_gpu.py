# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""On a GPU: kernels against torch, attention, times, each in a process of its own; and a tiny family's training.

Skipped without a GPU.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.doctor import collect
from tests.gpu_checks.kernel_cases import CASES, Case, compare, faults
from tests.gpu_checks.run_checks import CHECKS, KernelCheck, lacking, perform

pytestmark = pytest.mark.gpu
#: seconds: Triton compiles, and caches
PATIENCE = 900


@pytest.fixture(scope="module")
def kernels() -> Any:
    if importlib.util.find_spec("mamba_ssm") is None:
        pytest.skip("mamba_ssm is not installed")
    from tests.gpu_checks.kernel_checks import EXACT, installed

    os.environ.update(EXACT)
    return installed(slice(0, 1))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.title}, {'bf16' if c.bf16 else 'float32'}")
def test_mamba_ssm_gives_the_results_of_torch(case: Case, kernels: Any) -> None:
    from tests.gpu_checks.kernel_checks import LIMITS

    assert faults(case, compare(case, kernels, "cuda"), LIMITS) == []


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.name.replace(" ", "-"))
def test_a_check_in_its_own_process(check: KernelCheck) -> None:
    reason = lacking(check, collect())
    if reason is not None:
        pytest.skip(reason)
    result = perform(check, "cuda", PATIENCE)
    assert result.ok, result.message


@pytest.mark.slow
@pytest.mark.nemo
@pytest.mark.parametrize("gpus", [1, 2], ids=["a-save-and-a-load", "two-ranks-over-NCCL"])
def test_a_tiny_family_trains_as_the_large_ones_do(gpus: int, tmp_path: Path) -> None:
    from tests.gpu_checks import training

    facts = collect()
    if not facts.has("nemo-toolkit") or len(facts.gpus) < gpus:
        pytest.skip(f"needs NeMo and {gpus} of {len(facts.gpus)} GPUs")
    result = (training.save_and_load, training.tensor_parallel)[gpus - 1](tmp_path)
    assert result["ok"], result["told"]
