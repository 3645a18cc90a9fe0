# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NVFP4 and FP8 of a weight: codes and scales, the values that they mean, and a weight rounded to such values.

NVFP4 has e2m1 codes in blocks of 16 along the last dimension, each with an e4m3 scale, under one fp32 scale; FP8 has
e4m3 codes under one scale, a bf16 number: compressed-tensors' files have bf16 there, and training must round as they
do. Under these scales numbers are those of ModelOpt's `NVFP4QTensor` and `FP8QTensor`: codes round to the nearest,
ties to the even code; a block of zeros has the scale 1; a block scale is at least e4m3's smallest number, as in
ModelOpt 0.47 (0.37 lets it become 0). All is computed in fp32.

A block's codes follow from its own numbers and the global scale alone: a cut along whole blocks, coded under the
scale of the whole, has the codes of the whole, cut.

Letters: r rows, c columns, b blocks of 16 columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import tensors
from nemo_elastic.core.precision import BLOCK, FP8, LARGEST, default_rows

__all__ = [
    "BLOCK", "fake_quantized", "fp8_codes", "fp8_values", "global_scale", "nvfp4_codes", "nvfp4_values",
    "rounded_state",
]  # fmt: skip

#: largest numbers of e2m1 and e4m3, and the smallest of e4m3 above 0
E2M1_MAX, E4M3_MAX, E4M3_MIN = 6.0, 448.0, 2.0**-9
#: a weight without larger numbers counts as zeros: bf16 has scales for no smaller ones
_NOTHING = 2.0**-100
#: twice an e2m1 number -> its code
_CODES = [0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7]
#: code -> e2m1 number
_VALUES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
#: numbers that are worked on at a time: on a CPU, what its cache holds in fp32
_PIECE = {"cpu": 2**17}
_PIECE_ELSEWHERE = 2**26


def global_scale(w: torch.Tensor, scheme: str) -> torch.Tensor:
    """The scale of a whole weight, which makes its largest number the format's largest; fp32, without dimensions.

    A weight of zeros has that of a weight whose largest number is 1.
    """
    return scale_of(largest(w), scheme)


def largest(w: torch.Tensor) -> torch.Tensor:
    """The largest absolute number of a weight, fp32 without dimensions."""
    return torch.stack(torch.aminmax(w.detach())).abs().amax().float()


def scale_of(amax: torch.Tensor, scheme: str) -> torch.Tensor:
    """The same of the largest absolute number, fp32 of any shape."""
    scale = torch.where(amax > _NOTHING, amax, 1.0) / LARGEST[scheme]
    return scale.bfloat16().float() if scheme == FP8 else scale


def nvfp4_codes(w_rc: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """NVFP4 of a weight, or of a cut of one under the `global_scale` of the whole.

    Gives the codes, uint8 [r, c/2] with that of the first of two columns in the low four bits, and the blocks' scales,
    float8_e4m3fn [r, c/16]. `RuntimeError` where 16 does not divide the columns.
    """
    rows, columns = w_rc.shape
    packed_rh = torch.empty(rows, columns // 2, dtype=torch.uint8, device=w_rc.device)
    scales_rb = torch.empty(rows, columns // BLOCK, dtype=torch.float8_e4m3fn, device=w_rc.device)
    code_of = torch.tensor(_CODES, dtype=torch.uint8, device=w_rc.device)
    for piece, x_rc, scratch_rc in _pieces(w_rc):
        _, scale_rb1 = _scale_blocks(x_rc, scale, scratch_rc)
        negative = x_rc < 0
        codes_rc = code_of[_round(x_rc, 1.0, 1, E2M1_MAX, scratch_rc).abs_().mul_(2).int()].add_(negative, alpha=8)
        packed_rh[piece] = codes_rc[:, 0::2] | codes_rc[:, 1::2] << 4
        scales_rb[piece] = scale_rb1.squeeze(-1)
    return packed_rh, scales_rb


def nvfp4_values(
    packed: torch.Tensor, block_scales: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """What `nvfp4_codes` mean, [r, c] in `dtype`."""
    value_of = torch.tensor(_VALUES, device=packed.device)
    out_rc = torch.empty(packed.shape[0], packed.shape[1] * 2, dtype=dtype, device=packed.device)
    for piece, x_rc, _ in _pieces(out_rc):
        codes_rc = torch.stack([packed[piece] & 15, packed[piece] >> 4], -1).flatten(1)
        x_rbk = x_rc.copy_(value_of[codes_rc.int()]).unflatten(-1, (-1, BLOCK))
        x_rbk.mul_((block_scales[piece].float() * scale).unsqueeze(-1))
        out_rc[piece] = x_rc
    return out_rc


def fp8_codes(w_rc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """FP8 of a weight or of a cut of one, float8_e4m3fn, under a scale that is 0-dim or [r, 1].

    Larger numbers than the scale allows become the largest.
    """
    return (w_rc.float() / scale).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def fp8_values(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What `fp8_codes` mean, [r, c] in `dtype`."""
    return (codes.float() * scale).to(dtype)


@torch.no_grad()
def fake_quantized(w: torch.Tensor, scheme: str, scale: torch.Tensor) -> torch.Tensor:
    """A weight, or a cut of one, rounded to the values of its codes under the `global_scale` of the whole.

    A new tensor in the weight's dtype, through which no gradient passes. `RuntimeError` where 16 does not divide the
    columns of an NVFP4 weight.
    """
    out_rc = torch.empty_like(w, memory_format=torch.contiguous_format)
    for piece, x_rc, scratch_rc in _pieces(w):
        if scheme == FP8:
            _round(x_rc.div_(scale), 2.0**-6, 3, E4M3_MAX, scratch_rc).mul_(scale)
        else:
            x_rbk, scale_rb1 = _scale_blocks(x_rc, scale, scratch_rc)
            _round(x_rc, 1.0, 1, E2M1_MAX, scratch_rc)
            x_rbk.mul_(scale_rb1.mul_(scale))
        out_rc[piece] = x_rc
    return out_rc


class _StraightThrough(torch.autograd.Function):
    """A rounded weight, whose gradient is the weight's as it is."""

    @staticmethod
    def forward(ctx: Any, w: torch.Tensor, scheme: str) -> torch.Tensor:
        return fake_quantized(w, scheme, global_scale(w, scheme))

    @staticmethod
    def backward(ctx: Any, dw: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return dw, None


def rounded_state(parent: Parent, state: Mapping[str, torch.Tensor], scheme: str) -> dict[str, torch.Tensor]:
    """Weights of a whole model as low precision has them; members are cut out of these.

    Gradients flow back into `state` as if nothing was rounded (straight-through).
    """
    rows, out = default_rows(parent), dict(state)
    for t in tensors(parent, parent.full):
        if t.layer is not None and (t.row.name, t.layer.index) in rows:
            out[t.hf] = _StraightThrough.apply(out[t.hf], scheme)  # pyright: ignore[reportArgumentType]
    return out


def _pieces(w_rc: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Rows of a weight that are worked on at a time, in fp32 as a copy, and as much scratch memory.

    Both are the same memory each time: to ask for it anew takes longer than the arithmetic.
    """
    rows, columns = w_rc.shape
    size = min(rows, max(1, _PIECE.get(w_rc.device.type, _PIECE_ELSEWHERE) // max(1, columns)))
    x_rc, scratch_rc = torch.empty(2, size, columns, device=w_rc.device)
    for at in range(0, rows, size):
        count = min(size, rows - at)
        yield slice(at, at + count), x_rc[:count].copy_(w_rc[at : at + count]), scratch_rc[:count]


def _scale_blocks(
    x_rc: torch.Tensor, scale: torch.Tensor, scratch_rc: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers by blocks [r, b, 16], scaled in place as e2m1 is to round them, and their rounded scales [r, b, 1]."""
    x_rbk, scratch_rbk = (t.unflatten(-1, (-1, BLOCK)) for t in (x_rc, scratch_rc))
    scale_rb1 = torch.abs(x_rbk, out=scratch_rbk).amax(-1, keepdim=True).div_(E2M1_MAX * scale)
    scale_rb1 = scale_rb1.masked_fill_(scale_rb1 == 0, 1.0).clamp_(E4M3_MIN, E4M3_MAX)
    scale_rb1 = scale_rb1.to(torch.float8_e4m3fn).float()
    x_rbk.div_(scale_rb1 * scale)
    return x_rbk, scale_rb1


def _round(x: torch.Tensor, least: float, digits: int, most: float, scratch: torch.Tensor) -> torch.Tensor:
    """Round fp32 numbers in place to a float of `digits` bits behind the leading one: to the nearest, ties to even.

    Below `least`, its smallest normal number, numbers lie at equal distances; larger ones than `most` are cut to it.
    """
    x.clamp_(-most, most)
    # the power of two at or below |x|: its exponent bits alone
    torch.bitwise_and(x.view(torch.int32), 0x7F800000, out=scratch.view(torch.int32))
    # beside an even multiple of the step between 2^23 and 2^24 of them, fp32 has whole steps alone
    scratch.clamp_(min=least).mul_(1.5 * 2.0 ** (23 - digits))
    return x.add_(scratch).sub_(scratch)
