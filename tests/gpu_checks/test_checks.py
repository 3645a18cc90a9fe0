# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The checks for a GPU, as far as a CPU can run them: kernels written in torch, a wrong one, and the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nemo_elastic.nn.mixer import Kernels
from tests.gpu_checks import training
from tests.gpu_checks.kernel_cases import CASES, SPEED, compare, faults
from tests.gpu_checks.kernel_checks import LIMITS, attend, times
from tests.megatron.test_modules import reference, reference_conv, reference_scan
from tests.workers import environment

#: written as documented
RIGHT = Kernels(reference, reference_scan, reference_conv, 16)


def misaligned(*args: Any, **kwargs: Any) -> Any:
    """Right, with a gradient of the projection that lies one channel further, as if its rows were others."""
    return reference(_Shifted.apply(args[0]), *args[1:], **kwargs)


class _Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.roll(1, -1)


def test_right_kernels_pass_and_a_wrong_gradient_is_found_though_the_output_is_right() -> None:
    case = next(case for case in CASES if case.widths.fused)
    assert faults(case, compare(case, RIGHT), LIMITS) == []
    got = compare(case, replace(RIGHT, fused=misaligned))
    report = faults(case, got, LIMITS)
    assert got["out"] < 1e-5 and any("gradient of in_proj differs" in line for line in report)


def test_every_case_of_speed_is_timed_and_one_takes_two_calls() -> None:
    medians = times(None, "cpu", [replace(case, length=32) for case in SPEED], rounds=1)
    assert list(medians) == [case.title for case in SPEED] and min(medians.values()) > 0
    assert [case.widths.fused for case in SPEED] == [True, True, True, True, False]


def test_attention_makes_no_matrix_of_all_pairs_and_one_that_does_is_found() -> None:
    result = attend("cpu", 300)
    assert result["kernel"] == "FLASH_ATTENTION" and result["operations"] == []
    with sdpa_kernel(SDPBackend.MATH):
        assert "aten.bmm.default" in attend("cpu", 300)["operations"]


@pytest.mark.nemo
@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.long
def test_what_one_rank_saved_goes_on_on_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():  # the ranks are forks of a process that has NeMo
        monkeypatch.setenv(name, value)
    # bf16 rounds other sums: where nothing differs at all, one rank was compared with itself
    assert training.check_tensor_parallel(tmp_path) > 0
