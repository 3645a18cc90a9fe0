# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The checks for a GPU, as far as a CPU can run them: what they compare, what they find wrong, and how they end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nemo_elastic.doctor import Facts
from nemo_elastic.nn.mixer import Kernels
from nemo_elastic.nn.ssd import causal_conv1d, ssd_chunked
from tests.gpu_checks import kernel_checks
from tests.gpu_checks.kernel_cases import CASES, SPEED, compare, faults
from tests.gpu_checks.run_checks import CHECKS, KernelCheck, lacking, perform
from tests.workers import environment

ROOT = Path(__file__).parents[2]
LIMITS = {False: (1e-5, 2e-4), True: (8e-3, 3e-2)}


# ------------------------------------------------------------------ kernels: stand-ins in torch, right and wrong


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


@pytest.fixture(scope="module")
def judged() -> dict[str, Any]:
    """All cases by calls that are right."""
    out: dict[str, Any] = {}
    kernel_checks.part(RIGHT, "cpu", CASES, lambda case, entry: out.update({str(CASES.index(case)): entry}))
    return out


def test_right_kernels_pass_on_every_case(judged: dict[str, Any]) -> None:
    result = kernel_checks.judge(judged)
    assert result["ok"], result["told"]
    assert result["figures"]["cases"] == len(CASES) and set(result["figures"]) >= {"float32", "bf16"}
    assert re.fullmatch(r"float32: output \S+, gradients \S+; bf16: output \S+, gradients \S+", result["told"])


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


def test_what_was_not_compared_or_is_no_number_is_wrong(judged: dict[str, Any]) -> None:
    less = {key: value for key, value in judged.items() if key != "3"}
    result = kernel_checks.judge(less, ["RuntimeError: CUDA error: misaligned address"])
    assert not result["ok"] and result["told"] == "RuntimeError: CUDA error: misaligned address, and 1 more"
    assert result["figures"]["wrong"][1] == f"{CASES[3].title} (float32): not compared"
    nan = judged | {"0": judged["0"] | {"out": float("nan")}}
    assert kernel_checks.judge(nan)["told"] == "whole (float32): the output differs by nan"


def test_slices_are_timed_against_what_they_are_cut_from() -> None:
    short = [replace(case, length=32) for case in SPEED]
    times = kernel_checks.times(None, "cpu", short, rounds=1)
    assert list(times) == [case.title for case in SPEED] and min(times.values()) > 0
    times = dict(zip(times, (8.0, 6.0, 4.0, 2.0, 1.5), strict=True))
    report = kernel_checks.shares(times, short)
    assert report.startswith("128 heads 8.00 ms, 96 heads 6.00 ms (0.75), 80 heads 4.00 ms (0.50), 32 heads")
    assert report.endswith("2.00 ms, 28 of them 1.50 ms (0.75)")
    assert [case.widths.fused for case in SPEED] == [True, True, True, True, False]


# ------------------------------------------------------------------ attention


def test_attention_makes_no_matrix_of_all_pairs_and_one_that_does_is_found() -> None:
    result = kernel_checks.attend("cpu", 300)
    assert result["ok"] and result["figures"]["kernel"] == "FLASH_ATTENTION"
    assert result["figures"]["operations"] == []
    with sdpa_kernel(SDPBackend.MATH):
        result = kernel_checks.attend("cpu", 300)
    assert not result["ok"] and result["told"].startswith("MATH at 300 tokens")
    assert "aten.bmm.default" in result["figures"]["operations"]


# ------------------------------------------------------------------ training


@pytest.mark.nemo
@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.long
def test_a_save_and_a_load_with_the_distributed_optimizer_and_two_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.gpu_checks import training

    for name, value in environment().items():  # the ranks are forks of a process that has NeMo
        monkeypatch.setenv(name, value)
    for name in ("saved", "ranks"):
        (tmp_path / name).mkdir()
    result = training.save_and_load(tmp_path / "saved")
    assert result["ok"], result
    assert len(result["figures"]["losses"]) == training.STEPS and result["figures"]["deviation"] == 0
    (early,) = (tmp_path / "saved" / "whole" / "checkpoints").glob(f"step={training.SAVED - 1}-last")
    (late,) = (tmp_path / "saved" / "whole" / "checkpoints").glob(f"step={training.STEPS - 1}-last")
    other = training.differences(early, late)
    assert any(name.startswith("optimizer.state.exp_avg.module.elastic.router") for name in other)
    assert any(name.startswith("module.decoder") for name in other)
    assert training.differences(early, early) == []
    ranks = training.tensor_parallel(tmp_path / "ranks")
    assert ranks["ok"], ranks
    assert len(ranks["figures"]["two"]) == training.STEPS
    # bf16 rounds other sums: where nothing differs at all, one rank was compared with itself
    assert ranks["figures"]["deviation"] > 0


def test_what_a_load_changed_or_lost_is_wrong() -> None:
    from tests.gpu_checks.training import judge_load

    losses = [6.0, 5.0, 4.0, 3.0]
    assert judge_load(losses, [4.0, 3.0], [])["ok"]
    assert not judge_load(losses, [4.0, 3.1], [])["ok"]
    assert not judge_load(losses, losses, [])["ok"], "it began anew"
    assert not judge_load(losses, [4.0, float("nan")], [])["ok"]
    result = judge_load(losses, [4.0, 3.0], ["optimizer.state.exp_avg.x"])
    assert not result["ok"] and "1 tensors come back changed, such as optimizer.state.exp_avg.x" in result["told"]


# ------------------------------------------------------------------ how checks run


def made(name: str) -> KernelCheck:
    return KernelCheck(name, f"tests.gpu_checks.ends:{name}")


def test_each_check_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    fine, crash, abort = (perform(made(name), "cpu", 600) for name in ("fine", "crash", "abort"))
    assert (fine.ok, crash.ok, abort.ok) == (True, False, False) and fine.figures == {"x": 1}
    assert crash.message == "failed: RuntimeError: CUDA error: misaligned address"
    hang = perform(made("hang"), "cpu", 1)
    assert hang.ok is False and hang.message == "not done in 1 s" and hang.seconds < 600


def test_every_check_has_its_function() -> None:
    import importlib

    for check in CHECKS:
        module, _, name = check.function.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        assert lacking(check, Facts(python=(3, 11, 7))) is not None


def test_the_tests_for_a_gpu_are_collected_and_skipped_without_one() -> None:
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/gpu_checks"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout
    counted = re.search(r"^(\d+) skipped, (\d+) deselected in", done.stdout.splitlines()[-1])
    assert counted is not None and int(counted[1]) == len(CASES) + len(CHECKS) + 2, done.stdout[-500:]
