# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Mamba-2's state-space scan (SSD) in torch: chunked for sequences, stepwise for decoding.

Per head, with ``dt = softplus(dt + dt_bias)``::

    state_l = exp(dt_l * A) * state_{l-1} + dt_l * x_l B_l^T        (p x n)
    y_l     = state_l C_l + D * x_l

Chunks of q positions turn this into matrix products: inside a chunk y is a causal q x q matrix times x, and only the
states at the chunk borders go through a loop (Dao and Gu, arXiv 2405.21060, section 6). The decays inside a chunk are
exponentials of differences that are never positive, so nothing overflows however large dt is.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from nemo_elastic.nn.dtype import work_dtype
from nemo_elastic.nn.scan import scan_backward, scan_forward


def chunk_for(state: int, length: int) -> int:
    """Positions per chunk that are fastest on a CPU: 32 up to 32 state channels, 64 above.

    Measured forward and backward (`benchmarks/bench_chunk.py`). A chunk of q positions costs q x q per head for what
    mixes inside it, and p x n once for the state that it hands on, so more state wants longer chunks.

    Args:
        state: state channels n.
        length: positions there are; a chunk is never longer.
    """
    return min(length, 32 if state <= 32 else 64)


def ssd_chunked(
    x_blhp: torch.Tensor,
    dt_blh: torch.Tensor,
    A_h: torch.Tensor,
    B_blgn: torch.Tensor,
    C_blgn: torch.Tensor,
    D_h: torch.Tensor | None = None,
    dt_bias_h: torch.Tensor | None = None,
    chunk_size: int | None = None,
    initial_state_bhpn: torch.Tensor | None = None,
    return_final_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The scan over a whole sequence of any length, differentiable (once) in every tensor.

    Args:
        x_blhp: Inputs ``[b, l, h, p]``.
        dt_blh: Step sizes before bias and softplus ``[b, l, h]``.
        A_h: Decay rates ``[h]``, negative (``-exp(A_log)``).
        B_blgn: Input maps ``[b, l, g, n]``; head h uses group ``h // (heads / groups)``.
        C_blgn: Output maps ``[b, l, g, n]``.
        D_h: Skip ``[h]`` (or ``[h, p]``), or None.
        dt_bias_h: Added to ``dt_blh`` ``[h]``, or None.
        chunk_size: Positions per chunk, None for `chunk_for`. Changes speed and rounding, not the function.
        initial_state_bhpn: State before the first position ``[b, h, p, n]``; None for zeros.
        return_final_state: Also return the state after the last position.

    Returns:
        ``[b, l, h, p]`` in the dtype of ``x_blhp``; with ``return_final_state`` also ``[b, h, p, n]`` in float32
        (float64 for float64 inputs), which is what the state should be kept in.

    Raises:
        ValueError: A shape does not fit, or ``chunk_size`` is not positive.
    """
    b, length, h, p = x_blhp.shape
    g, n = B_blgn.shape[-2:]
    _check_shapes(dt_blh, (b, length, h), B_blgn, C_blgn, (b, length, g, n), initial_state_bhpn, (b, h, p, n))
    if chunk_size is None:
        chunk_size = chunk_for(n, length)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be positive, not {chunk_size}")
    dtype = work_dtype(x_blhp, dt_blh, A_h, B_blgn, C_blgn, initial_state_bhpn)
    heads = (g, h // g)
    x, B, C = x_blhp.to(dtype), B_blgn.to(dtype), C_blgn.to(dtype)
    by_head = None if D_h is None or D_h.dim() > 1 else D_h.to(dtype).view(heads)
    y, state = _Scan.apply(
        x.unflatten(2, heads),
        _step_size(dt_blh.to(dtype), dt_bias_h).unflatten(2, heads),
        A_h.to(dtype).view(heads),
        B,
        C,
        by_head,
        None if initial_state_bhpn is None else initial_state_bhpn.to(dtype).unflatten(1, heads),
        chunk_size,
    )
    y = y.flatten(2, 3)
    if D_h is not None and by_head is None:
        y = _skip(y, x, D_h)
    y = y.to(x_blhp.dtype)
    return (y, state.flatten(1, 2)) if return_final_state else y


class _Scan(torch.autograd.Function):
    """`nn.scan` as one function of x, dt (the step sizes themselves), A, B, C, D and the first state."""

    @staticmethod
    def forward(
        ctx: Any,
        x_blgrp: torch.Tensor,
        dt_blgr: torch.Tensor,
        A_gr: torch.Tensor,
        B_blgn: torch.Tensor,
        C_blgn: torch.Tensor,
        D_gr: torch.Tensor | None,
        state_bgrpn: torch.Tensor | None,
        q: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y_blgrp = torch.empty_like(x_blgrp)
        last, starts = scan_forward(x_blgrp, dt_blgr, A_gr, B_blgn, C_blgn, D_gr, state_bgrpn, q, y_blgrp)
        ctx.save_for_backward(x_blgrp, dt_blgr, A_gr, B_blgn, C_blgn, D_gr, y_blgrp, *starts)
        ctx.q = q
        ctx.set_materialize_grads(False)
        return y_blgrp, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor | None, dlast: torch.Tensor | None) -> Any:  # pyright: ignore
        x, dt, A, B, C, D, y, *starts = ctx.saved_tensors
        dy = torch.zeros_like(y) if dy is None else dy
        into = (torch.empty_like(x), torch.empty_like(dt), torch.empty_like(B), torch.empty_like(C))
        dA, dD, dstate = scan_backward(dy, dlast, x, dt, A, B, C, D, starts, ctx.q, y, into)
        dx, ddt, dB, dC = into
        return dx, ddt, dA, dB, dC, dD, dstate if ctx.needs_input_grad[6] else None, None


def ssd_step(
    x_bhp: torch.Tensor,
    dt_bh: torch.Tensor,
    A_h: torch.Tensor,
    B_bgn: torch.Tensor,
    C_bgn: torch.Tensor,
    D_h: torch.Tensor | None,
    dt_bias_h: torch.Tensor | None,
    state_bhpn: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One position of the scan, for decoding.

    Args:
        x_bhp: Input ``[b, h, p]``.
        dt_bh: Step size before bias and softplus ``[b, h]``.
        A_h: Decay rates ``[h]``, negative.
        B_bgn: Input map ``[b, g, n]``.
        C_bgn: Output map ``[b, g, n]``.
        D_h: Skip ``[h]`` (or ``[h, p]``), or None.
        dt_bias_h: Added to ``dt_bh`` ``[h]``, or None.
        state_bhpn: State before this position ``[b, h, p, n]``; not changed.

    Returns:
        ``y [b, h, p]`` in the dtype of ``x_bhp`` and the new state ``[b, h, p, n]`` in the dtype of ``state_bhpn``.

    Raises:
        ValueError: A shape does not fit.
    """
    b, h, p = x_bhp.shape
    g, n = B_bgn.shape[-2:]
    _check_shapes(dt_bh, (b, h), B_bgn, C_bgn, (b, g, n), state_bhpn, (b, h, p, n))
    dtype = work_dtype(x_bhp, dt_bh, A_h, B_bgn, C_bgn, state_bhpn)
    x, r = x_bhp.to(dtype), h // g
    dt = _step_size(dt_bh.to(dtype), dt_bias_h)
    B_bh1n = B_bgn.to(dtype).repeat_interleave(r, dim=1).unsqueeze(2)
    C_bhn1 = C_bgn.to(dtype).repeat_interleave(r, dim=1).unsqueeze(3)
    keep_bh11 = (dt * A_h.to(dtype)).exp()[..., None, None]
    state = torch.addcmul(state_bhpn.to(dtype) * keep_bh11, (x * dt[..., None]).unsqueeze(-1), B_bh1n)
    y = _skip((state @ C_bhn1).squeeze(-1), x, D_h)
    return y.to(x_bhp.dtype), state.to(state_bhpn.dtype)


def _step_size(dt: torch.Tensor, dt_bias_h: torch.Tensor | None) -> torch.Tensor:
    """``softplus(dt + dt_bias)``; softplus is the identity above 20, so a large dt stays what it is."""
    return F.softplus(dt if dt_bias_h is None else dt + dt_bias_h.to(dt.dtype))


def _skip(y: torch.Tensor, x: torch.Tensor, D_h: torch.Tensor | None) -> torch.Tensor:
    """``y + D * x`` for D of ``[h]`` or ``[h, p]``."""
    if D_h is None:
        return y
    D = D_h.to(x.dtype)
    return torch.addcmul(y, x, D.unsqueeze(-1) if D.dim() == 1 else D)


def _check_shapes(
    dt: torch.Tensor,
    dt_shape: tuple[int, ...],
    B: torch.Tensor,
    C: torch.Tensor,
    bc_shape: tuple[int, ...],
    state: torch.Tensor | None,
    state_shape: tuple[int, ...],
) -> None:
    """Raises ValueError with the name of the first tensor whose shape does not fit ``x`` and ``B``."""
    heads, groups = state_shape[1], bc_shape[-2]
    if heads % groups:
        raise ValueError(f"{heads} heads are not shared equally by {groups} groups")
    for name, tensor, shape in (
        ("dt", dt, dt_shape),
        ("B", B, bc_shape),
        ("C", C, bc_shape),
        ("state", state, state_shape),
    ):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, {shape} is needed")
