# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""mamba_ssm's and causal_conv1d's three calls without numbers.

They refuse what mamba_ssm 2.3.2 and causal_conv1d 1.6.2 refuse, allocate what those allocate, and keep for the
backward pass what those keep (`ssd_combined.py`, `causal_conv1d_interface.py`).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from megatron.core.optimizer import clip_grads
from megatron.core.ssm import mamba_mixer
from megatron.core.transformer.moe import token_dispatcher

from tests.fake_gpu.gpu import WAITS, here, known

FP32 = torch.float32


def require(fine: bool, what: str) -> None:
    """The kernel would raise, or read beside the tensor."""
    if not fine:
        raise AssertionError(f"kernel: {what}")


def check(*tensors: torch.Tensor | None, seq_idx: torch.Tensor | None, batch: int, length: int) -> None:
    for t in tensors:
        require(t is None or t.device.type == "cuda", "a tensor that is not on the GPU")
    if seq_idx is not None:
        require(seq_idx.dtype == torch.int32, f"seq_idx of {seq_idx.dtype}")
        require(tuple(seq_idx.shape) == (batch, length), f"seq_idx of shape {tuple(seq_idx.shape)}")


def channels_last(x_bdl: torch.Tensor, seq_idx: torch.Tensor | None) -> None:
    require(1 in (x_bdl.stride(1), x_bdl.stride(2)), f"convolution of strides {x_bdl.stride()}")
    if x_bdl.stride(1) == 1 and x_bdl.stride(2) > 1:
        require(x_bdl.shape[1] % 8 == 0, f"{x_bdl.shape[1]} channels, no multiple of 8")
        require(x_bdl.stride(0) % 8 == 0 and x_bdl.stride(2) % 8 == 0, f"convolution of strides {x_bdl.stride()}")
    else:
        require(seq_idx is None, "documents and rows of positions")


def chunks(x: torch.Tensor, batch: int, length: int, heads: int, p: int, groups: int, n: int, size: int) -> list[Any]:
    """What a scan allocates beside its output: cumulated decays first, which one caller keeps."""
    count = -(-length // size)
    new = lambda *shape, dtype=FP32: torch.empty(shape, dtype=dtype, device=x.device)  # noqa: E731
    return [
        new(batch, heads, count, size),  # dA, cumulated
        new(batch, heads, count, size),  # dt
        new(batch, count, heads, p, n),  # states of chunks
        new(batch, count, heads, p, n, dtype=x.dtype),  # states that are passed on
        new(batch, count, groups, size, size),  # C B
    ]


class Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, zx: Any, conv_w: Any, conv_b: Any, dt_bias: Any, a: Any, d: Any, how: Any) -> Any:
        size, p, groups, seq_idx = how
        batch, length, width = zx.shape
        heads = a.shape[0]
        n = (conv_w.shape[0] - heads * p) // groups // 2
        check(zx, conv_w, conv_b, dt_bias, a, d, seq_idx, seq_idx=seq_idx, batch=batch, length=length)
        require(heads % groups == 0, f"{heads} heads of {groups} groups")
        require(width == 2 * heads * p + 2 * groups * n + heads, f"{width} channels of a projection")
        require(conv_w.shape[0] % 8 == 0, f"{conv_w.shape[0]} convolved channels, no multiple of 8")
        # the backward pass writes the gradient by rows of this stride, which releases before 2.3 do not check
        require(zx.stride(-1) == 1 and zx.stride(1) % 8 == 0, f"rows of stride {zx.stride(1)}")
        require(a.dtype == d.dtype == dt_bias.dtype == FP32, "a, d or dt_bias is not fp32")
        xbc = torch.empty(batch, length, conv_w.shape[0], dtype=zx.dtype, device=zx.device)
        scan = chunks(zx, batch, length, heads, p, groups, n, size)
        out_x, out = (torch.empty(batch, length, heads * p, dtype=zx.dtype, device=zx.device) for _ in range(2))
        del xbc, scan
        ctx.how = heads, p, groups, n, size
        ctx.save_for_backward(zx, conv_w, conv_b, out_x, a, d, dt_bias, seq_idx)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        zx, conv_w, conv_b, _, a, d, dt_bias, _ = ctx.saved_tensors
        heads, p, groups, n, size = ctx.how
        xbc = torch.empty(*zx.shape[:2], conv_w.shape[0], dtype=zx.dtype, device=zx.device)
        scan = [
            chunks(zx, zx.shape[0], zx.shape[1], heads, p, groups, n, size) for _ in range(2)
        ]  # and their gradients
        grads = torch.empty_like(zx), *(torch.empty_like(t) for t in (conv_w, conv_b, dt_bias, a, d))
        del xbc, scan
        return *grads, None


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, dt: Any, a: Any, b: Any, c: Any, d: Any, z: Any, dt_bias: Any, how: Any) -> Any:
        size, seq_idx = how
        batch, length, heads, p = x.shape
        check(x, dt, a, b, c, d, z, dt_bias, seq_idx, seq_idx=seq_idx, batch=batch, length=length)
        require(b.shape == c.shape and heads % b.shape[2] == 0, f"{heads} heads of {b.shape[2]} groups")
        require(tuple(dt.shape) == (batch, length, heads), f"dt of shape {tuple(dt.shape)}")
        require(z.shape == x.shape, f"z of shape {tuple(z.shape)}")
        decays, *rest = chunks(x, batch, length, heads, p, b.shape[2], b.shape[3], size)
        out_x, out = torch.empty_like(x), torch.empty_like(x)
        del rest
        ctx.size = size
        ctx.save_for_backward(out_x, x, dt, decays, a, b, c, d, z, dt_bias, seq_idx)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        _, x, dt, _, a, b, c, d, z, dt_bias, _ = ctx.saved_tensors
        batch, length, heads, p = x.shape
        scan = [chunks(x, batch, length, heads, p, b.shape[2], b.shape[3], ctx.size) for _ in range(2)]
        grads = [torch.empty_like(t) for t in (x, dt, a, b, c, d, z, dt_bias)]
        del scan
        return *grads, None


class Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, seq_idx: Any) -> Any:
        check(x, weight, bias, seq_idx, seq_idx=seq_idx, batch=x.shape[0], length=x.shape[2])
        channels_last(x, seq_idx)
        ctx.save_for_backward(x, weight, bias, seq_idx)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, weight, bias, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias), None


def fused(zx: Any, conv_w: Any, conv_b: Any, dt_bias: Any, a: Any, *, D: Any, chunk_size: int, headdim: int,
          ngroups: int, seq_idx: Any = None, activation: str, norm_before_gate: bool) -> Any:  # fmt: skip
    require(activation == "silu" and not norm_before_gate, "another activation")
    return Fused.apply(zx, conv_w, conv_b, dt_bias, a, D, (chunk_size, headdim, ngroups, seq_idx))


def scan(x: Any, dt: Any, a: Any, b: Any, c: Any, chunk_size: int, *, D: Any, z: Any, dt_bias: Any,
         dt_softplus: bool, seq_idx: Any = None) -> Any:  # fmt: skip
    require(dt_softplus, "dt without softplus")
    return Scan.apply(x, dt, a, b, c, D, z, dt_bias, (chunk_size, seq_idx))


def conv(x: Any, weight: Any, bias: Any, *, seq_idx: Any = None, activation: str) -> Any:
    require(activation == "silu", "another activation")
    return Conv.apply(x, weight, bias, seq_idx)


def attention(q: Any, k: Any, v: Any, attn_mask: Any = None, is_causal: bool = False, enable_gqa: bool = False) -> Any:
    """torch's choice on a GPU: flash attention, which takes no mask, and other kernels would keep every score."""
    require(attn_mask is None, "attention with a mask")
    require(q.dtype in (torch.bfloat16, torch.float16), f"attention in {q.dtype}")
    require(q.shape[-1] % 8 == 0 and q.shape[-1] <= 256, f"heads of {q.shape[-1]}")
    require(all(t.stride(-1) == 1 for t in (q, k, v)), "attention of strided heads")
    require(enable_gqa or q.shape[1] == k.shape[1], "query groups")
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]


class Norm(torch.autograd.Function):
    """torch's `_fused_rms_norm`, which a CPU build of torch has not: it takes the steps one by one and keeps more."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any) -> Any:
        ctx.save_for_backward(x, weight, torch.empty((*x.shape[:-1], 1), dtype=FP32, device=x.device))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)


def rms_norm(x: Any, _: Any, weight: Any = None, __: Any = None) -> Any:
    check(x, weight, seq_idx=None, batch=0, length=0)
    return Norm.apply(x, weight)


def l2_norm(_: int, __: Any, tensors: Any, ___: bool) -> tuple[torch.Tensor, None]:
    """TransformerEngine's norm of many tensors, in one launch."""
    return torch.empty(1, dtype=FP32, device=tensors[0][0].device), None


def scale(_: int, __: Any, tensors: Any, ___: Any) -> None:
    """TransformerEngine's product of many tensors and a number, in one launch."""


def adam(params: Any, *_: Any, **__: Any) -> None:
    """TransformerEngine's step of many tensors, in one launch; torch takes fake ones one by one."""
    if params:
        params[0].mul_(1.0)


def balanced(self: Any, point: str, tokens_per_expert: Any = None) -> Any:
    """In place of the dispatcher's copy to the host: every expert gets as many tokens as the others."""
    if point != self.cuda_dtoh_point:
        return tokens_per_expert
    WAITS[here()] += 1
    pairs, ranks = self.routing_map.shape[0] * self.config.moe_router_topk, self.tp_size * self.ep_size
    each = pairs // self.num_experts
    local = [each] * self.num_local_experts
    self.num_out_tokens = pairs
    if self.input_splits is not None:
        self.input_splits = self.output_splits = np.full(self.ep_size, pairs // self.ep_size)
        self.output_splits_tp = np.full(self.tp_size, pairs)
    if self.num_local_experts > 1:
        self.num_global_tokens_per_local_expert = known(*local * ranks).view(ranks, -1)
    return known(*[each * ranks] * self.num_local_experts)


def sort_chunks(tokens: Any, _: Any, __: Any, probs: Any = None, fused: bool = False) -> Any:
    """megatron-core's, which asks the host for sizes that are equal here: one copy of each."""
    return tokens.clone(), None if probs is None else probs.clone()


def install() -> None:
    """Put them where megatron-core has the real ones, and TransformerEngine's."""
    torch.nn.functional.rms_norm = rms_norm
    torch.nn.functional.scaled_dot_product_attention = attention
    clip_grads.l2_norm_impl, clip_grads.multi_tensor_scale_impl = l2_norm, scale
    token_dispatcher.sort_chunks_by_idxs = sort_chunks
    token_dispatcher.MoEAlltoAllTokenDispatcher._maybe_dtoh_and_synchronize = balanced
    sys.modules["torch.optim.adam"]._single_tensor_adam = adam  # pyright: ignore
    mamba_mixer.mamba_split_conv1d_scan_combined = fused
    mamba_mixer.mamba_chunk_scan_combined = scan
    mamba_mixer.causal_conv1d_fn = conv
