# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NVFP4 and FP8 are ModelOpt's, bit for bit; a weight rounded is its codes read back; a cut's codes are cut codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.nn.low_precision import (
    E4M3_MIN,
    fake_quantized,
    fp8_codes,
    fp8_values,
    global_scale,
    nvfp4_codes,
    nvfp4_values,
    rounded_state,
)
from nemo_elastic.nn.nemotron_h import NemotronH

DTYPES = (torch.float32, torch.bfloat16)


def weight(kind: str, dtype: torch.dtype = torch.float32, rows: int = 48, columns: int = 96) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    w = torch.randn(rows, columns, generator=random)
    if kind == "tails":  # some numbers far from the others, so that most blocks have scales of few bits or the least
        w = w * 10 ** (4 * torch.rand(rows, columns, generator=random) - 2)
        w[0, 0] = 3e4
    if kind == "ties":  # under scales of 1, all halves of steps and the steps themselves
        w = torch.randint(-24, 25, (rows, columns), generator=random) / 4.0
        w[:, ::16] = 6.0
        w[0, 0] = 2688.0
    if kind == "zeros":
        w[:, 16:32] = 0
        w[5] = 0
    if kind == "nothing":
        w = torch.zeros(rows, columns)
    return w.to(dtype)


KINDS = ("normal", "tails", "ties", "zeros")


def bits(t: torch.Tensor) -> torch.Tensor:
    return t.view(torch.uint8)


def modelopt_nvfp4(w: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and values of a weight, by ModelOpt."""
    module: Any = pytest.importorskip("modelopt.torch.quantization.qtensor.nvfp4_tensor")
    nvfp4 = module.NVFP4QTensor
    scales, _ = nvfp4.get_weights_scaling_factor(w, 16, scale)
    scales = scales.float().clamp(min=E4M3_MIN).to(torch.float8_e4m3fn)  # ModelOpt 0.37 divides by 0 there, 0.47 not
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fp4_compatible", lambda: False)  # it asks a GPU, even where there is none
        packed, scales, _ = nvfp4.quantize(w.clone(), 16, scales, scale)
    return packed._quantized_data, scales, packed.dequantize(scale=scales, double_scale=scale, block_sizes={-1: 16})


def modelopt_fp8(w: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and values in fp32 of a weight, by ModelOpt."""
    fp8: Any = pytest.importorskip("modelopt.torch.quantization.qtensor.fp8_tensor").FP8QTensor
    # of a scale without dimensions a bf16 weight's quotient is bf16 there, rounded twice
    codes, _ = fp8.quantize(w, scale.view(1, 1).expand_as(w))
    return codes._quantized_data, codes.dequantize(torch.float32, scale=scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_nvfp4_is_modelopts(kind: str, dtype: torch.dtype) -> None:
    w, scale = weight(kind, dtype), global_scale(weight(kind, dtype), "nvfp4")
    packed, scales, values = modelopt_nvfp4(w, scale)
    own_packed, own_scales = nvfp4_codes(w, scale)
    assert torch.equal(own_packed, packed) and torch.equal(bits(own_scales), bits(scales))
    assert values.dtype == dtype and torch.equal(nvfp4_values(packed, scales, scale, dtype), values)
    assert own_packed.shape == (48, 48) and own_scales.shape == (48, 6)


def test_the_global_scale_is_modelopts() -> None:
    nvfp4: Any = pytest.importorskip("modelopt.torch.quantization.qtensor.nvfp4_tensor").NVFP4QTensor
    for dtype in DTYPES:
        w = weight("normal", dtype)
        assert torch.equal(global_scale(w, "nvfp4"), nvfp4.get_weights_scaling_factor_2(w).view(()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_fp8_is_modelopts(kind: str, dtype: torch.dtype) -> None:
    w = weight(kind, dtype)
    scale = global_scale(w, "fp8")
    codes, values = modelopt_fp8(w, scale)
    assert torch.equal(bits(fp8_codes(w, scale)), bits(codes))
    assert torch.equal(fp8_values(fp8_codes(w, scale), scale, torch.float32), values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", (*KINDS, "nothing"))
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_rounded_weight_is_its_codes_read_back(kind: str, dtype: torch.dtype, share: float) -> None:
    """Also under another weight's scale, of larger numbers or of smaller ones, which are cut."""
    w = weight(kind, dtype)
    scale = global_scale(w, "nvfp4") * share
    values = nvfp4_values(*nvfp4_codes(w, scale), scale, dtype)
    assert torch.equal(fake_quantized(w, "nvfp4", scale), values) and values.isfinite().all()
    scale = global_scale(w, "fp8") * share
    values = fp8_values(fp8_codes(w, scale), scale, dtype)
    assert torch.equal(fake_quantized(w, "fp8", scale), values) and values.isfinite().all()


def test_fp8_cuts_to_the_largest_and_takes_a_scale_per_row() -> None:
    w = torch.tensor([[1.0, -2.0, 100.0], [448.0, 3.0, -1e9]])
    scale = torch.tensor([[1 / 448], [1.0]])
    assert fp8_codes(w, scale).float().tolist() == [[448, -448, 448], [448, 3, -448]]
    assert torch.allclose(fp8_values(fp8_codes(w, scale), scale, torch.float32)[:, 0], torch.tensor([1.0, 448.0]))


PARENT = Parent("M-M*-", 32, 24, 64, 4, 16, 2, 6, 4, 4, 2, 8, ffn_stripes=2)
MEMBER = PARENT.uniform(keep=[0, 1, 3, 4], hidden=16, ffn=32, mamba_heads=2)


@pytest.mark.parametrize("scheme", ["nvfp4", "fp8"])
@pytest.mark.parametrize("choice", [None, MEMBER], ids=["whole", "member"])
def test_members_run_and_learn_as_a_model_rounded_beforehand(scheme: str, choice: Any) -> None:
    model = NemotronH.random(PARENT, seed=2)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    rounded = rounded_state(PARENT, model.state_dict(), scheme)
    changed = {name for name, t in rounded.items() if not torch.equal(t, before[name])}
    assert {name.split(".")[2] for name in changed} == {"0", "1", "4"} and all(before[n].dim() == 2 for n in changed)
    other, tokens_bl = NemotronH(PARENT, rounded), torch.arange(24).view(2, 12)
    plain = model(tokens_bl, choice)
    model.rounding = scheme
    logits, wanted = model(tokens_bl, choice), other(tokens_bl, choice)
    assert torch.equal(logits, wanted) and not torch.allclose(logits, plain, rtol=1e-3)
    for z in (logits, wanted):
        z.square().mean().backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad), name
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
