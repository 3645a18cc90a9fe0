# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""On a GPU: kernels against torch, attention's memory, times of slices, and a tiny family's training.

Skipped without a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from nemo_elastic.doctor import collect
from nemo_elastic.nn.mixer import Kernels
from nemo_elastic.plan.machine import MARGIN
from tests.fake_gpu import cases, real
from tests.gpu_checks import training
from tests.gpu_checks.kernel_cases import CASES, Case, compare, faults
from tests.gpu_checks.kernel_checks import EXACT, LIMITS, attend, installed
from tests.workers import work

pytestmark = pytest.mark.gpu
#: tokens of stage 2
LENGTH = 49152


has_kernels = pytest.mark.skipif(importlib.util.find_spec("mamba_ssm") is None, reason="mamba_ssm is not installed")


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    os.environ.update(EXACT)
    return installed(slice(0, 1))


@has_kernels
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.title}, {'bf16' if c.bf16 else 'float32'}")
def test_mamba_ssm_gives_the_results_of_torch(case: Case, kernels: Kernels) -> None:
    assert faults(case, compare(case, kernels, "cuda"), LIMITS) == []


@has_kernels
@pytest.mark.slow
def test_a_slice_of_a_layer_takes_less_time_than_the_layer() -> None:
    medians = json.loads(work("tests.gpu_checks.kernel_checks"))  # a process of its own: Triton chooses at its import
    print({title: f"{ms:.2f} ms" for title, ms in medians.items()})
    assert medians["80 heads"] < medians["96 heads"] < medians["128 heads"]


@pytest.mark.slow
def test_attention_over_stage_twos_length_takes_less_than_half_of_one_heads_scores() -> None:
    """One byte for each pair of tokens, where a score in bf16 has two."""
    result = attend("cuda", LENGTH)
    assert result["operations"] == [] and result["extra_bytes"] < LENGTH**2, result


@pytest.mark.slow
@pytest.mark.nemo
@pytest.mark.parametrize("gpus", [1, 2], ids=["a-save-and-a-load", "two-ranks-over-NCCL"])
def test_a_tiny_family_trains_as_the_large_ones_do(gpus: int, tmp_path: Path) -> None:
    facts = collect()
    if not facts.has("nemo-toolkit") or len(facts.gpus) < gpus:
        pytest.skip(f"needs NeMo and {gpus} of {len(facts.gpus)} GPUs")
    (training.check_save_and_load, training.check_tensor_parallel)[gpus - 1](tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.CASES)
def test_steps_of_the_large_recipes_take_what_plan_says(name: str, tmp_path: Path) -> None:
    """One rank of each layout. What the stand-in counted is printed beside, with `-s`."""
    job = cases.CASES[name]
    host = "megatron.bridge" if job["recipe"].startswith("bridge/") else "nemo"
    if importlib.util.find_spec(host.partition(".")[0]) is None or importlib.util.find_spec(host) is None:
        pytest.skip(f"{host} is not installed")
    result = cases.run({**job, "real": True}, None, tmp_path, sys.executable)
    print(real.side_by_side(name, result))
    assert max(step["peak"] for step in cases.steps_of(result)) <= (1 + MARGIN) * result["planned"]["total"]
