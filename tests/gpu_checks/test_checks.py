# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The checks for a GPU, as far as a CPU can run them: kernels written in torch, right and wrong, and the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nemo_elastic.nn.mixer import Kernels
from nemo_elastic.nn.ssd import causal_conv1d, ssd_chunked
from tests.gpu_checks import training
from tests.gpu_checks.kernel_cases import CASES, SPEED, Case, compare, faults
from tests.gpu_checks.kernel_checks import LIMITS, attend, times
from tests.workers import environment


def conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, seq_idx: Any, activation: str) -> torch.Tensor:
    assert activation == "silu"
    out = causal_conv1d(x.transpose(1, 2), weight[:, None], bias, index_bl=seq_idx)
    assert isinstance(out, torch.Tensor)
    return out.transpose(1, 2)


def scan(
    x: Any, dt: Any, a: Any, b: Any, c: Any, chunk: int, *, D: Any, z: Any, dt_bias: Any, dt_softplus: bool,
    seq_idx: Any,
) -> Any:  # fmt: skip
    assert dt_softplus
    y = ssd_chunked(x, dt, a, b, c, D, dt_bias, index_bl=seq_idx)
    assert isinstance(y, torch.Tensor)
    return y * torch.nn.functional.silu(z.float()).to(y.dtype)


def fused(zxbcdt: Any, weight: Any, bias: Any, dt_bias: Any, a: Any, *, D: Any, chunk_size: int, headdim: int,
          ngroups: int, seq_idx: Any, **_: Any) -> Any:  # fmt: skip
    inner = headdim * len(a)
    z, xbc, dt = zxbcdt.split([inner, len(weight), len(a)], dim=-1)
    xbc = conv(xbc.transpose(1, 2), weight, bias, seq_idx, "silu").transpose(1, 2)
    maps = (len(weight) - inner) // 2
    x, b, c = xbc.split([inner, maps, maps], dim=-1)
    x, z = (t.unflatten(-1, (-1, headdim)) for t in (x, z))
    b, c = (t.unflatten(-1, (ngroups, -1)) for t in (b, c))
    return scan(x, dt, a, b, c, chunk_size, D=D, z=z, dt_bias=dt_bias, dt_softplus=True, seq_idx=seq_idx).flatten(-2)


RIGHT = Kernels(fused, scan, conv, 16)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.title}, {'bf16' if c.bf16 else 'float32'}")
def test_right_kernels_pass_on_every_case(case: Case) -> None:
    assert faults(case, compare(case, RIGHT), LIMITS) == []


def misaligned(*args: Any, **kwargs: Any) -> Any:
    """Right, with a gradient of the projection that lies one channel further, as if its rows were others."""
    return fused(_Shifted.apply(args[0]), *args[1:], **kwargs)


class _Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.roll(1, -1)


def test_a_wrong_gradient_is_found_though_the_output_is_right() -> None:
    case = next(case for case in CASES if case.widths.fused)
    got = compare(case, replace(RIGHT, fused=misaligned))
    report = faults(case, got, LIMITS)
    assert got["out"] < 1e-6 and any("gradient of in_proj differs" in line for line in report)


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
def test_a_save_and_a_load_with_the_distributed_optimizer_and_two_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():  # the ranks are forks of a process that has NeMo
        monkeypatch.setenv(name, value)
    for name in ("saved", "ranks"):
        (tmp_path / name).mkdir()
    assert training.check_save_and_load(tmp_path / "saved") == 0
    (early,) = (tmp_path / "saved" / "whole" / "checkpoints").glob(f"step={training.SAVED - 1}-last")
    (late,) = (tmp_path / "saved" / "whole" / "checkpoints").glob(f"step={training.STEPS - 1}-last")
    other = training.differences(early, late)
    assert any(name.startswith("optimizer.state.exp_avg.module.elastic.router") for name in other)
    assert any(name.startswith("module.decoder") for name in other)
    assert training.differences(early, early) == []
    # bf16 rounds other sums: where nothing differs at all, one rank was compared with itself
    assert training.check_tensor_parallel(tmp_path / "ranks") > 0
