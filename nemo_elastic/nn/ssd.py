# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The convolution and the state-space scan (SSD) of Mamba-2 in torch: chunked for sequences, stepwise for decoding.

Per head, with ``dt = softplus(dt + dt_bias)``::

    state_l = exp(dt_l * A) * state_{l-1} + dt_l * x_l B_l^T        (p x n)
    y_l     = state_l C_l + D * x_l

Chunks of q positions turn this into matrix products: inside a chunk y is a causal q x q matrix times x, and only the
states at the chunk borders go through a loop (Dao and Gu, arXiv 2405.21060, section 6). The decays inside a chunk are
exponentials of differences that are never positive, so nothing overflows however large dt is. Gradients are
autograd's.

Letters beside those of `nn`: i heads x head channels, q position in a chunk, r head of a group.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from nemo_elastic.kernels import chunk_for
from nemo_elastic.nn.functional import work_dtype

#: positions whose products are in memory at once
PART = 2048

# --------------------------------------------------------------------------------------------------- convolution


def causal_conv1d(
    x_blc: torch.Tensor,
    weight_ck: torch.Tensor,
    bias_c: torch.Tensor | None,
    state_bck: torch.Tensor | None = None,
    return_state: bool = False,
    index_bl: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """``silu(bias + sum_i weight[:, i] * x[l - (k - 1) + i])``: every channel sees its own last k inputs.

    Runs as a sum of k shifted products: F.conv1d with ``groups=c`` has a slow backward pass on a CPU. Taps are oldest
    first, [c, k] or [c, 1, k], and so are the k - 1 inputs before `x_blc` in the state, None for zeros; with
    `return_state` the new state is returned, too. Where `index_bl` says each position's document (`Documents.index`),
    inputs of another document are zeros. `ValueError` where a shape does not fit.
    """
    batch, length, channels = x_blc.shape
    weight_c1k = weight_ck if weight_ck.dim() == 3 else weight_ck.unsqueeze(1)
    past = weight_c1k.shape[-1] - 1
    if weight_c1k.shape != (channels, 1, past + 1):
        raise ValueError(f"weight {tuple(weight_ck.shape)} is neither [c, k] nor [c, 1, k] for c={channels} channels")
    if index_bl is not None and (state_bck is not None or return_state):
        raise ValueError("documents of a row start without a state; give no state")
    if state_bck is None:
        seen_blc = F.pad(x_blc, (0, 0, past, 0))
    elif state_bck.shape == (batch, channels, past):
        seen_blc = torch.cat([state_bck.to(x_blc.dtype).transpose(1, 2), x_blc], dim=1)
    else:
        raise ValueError(f"state {tuple(state_bck.shape)} is not [b, c, k - 1] = {(batch, channels, past)}")
    dtype = work_dtype(x_blc)
    work_blc, weight_kc = seen_blc.to(dtype), weight_c1k[:, 0].to(dtype).t()
    y_blc = work_blc.new_zeros(channels) if bias_c is None else bias_c.to(dtype)
    seen_bl = None if index_bl is None else F.pad(index_bl, (past, 0), value=-1)
    for i in range(past + 1):
        tap_blc = work_blc[:, i : i + length]
        if seen_bl is not None and i < past:
            tap_blc = tap_blc.masked_fill((seen_bl[:, i : i + length] != index_bl)[..., None], 0.0)
        y_blc = torch.addcmul(y_blc, tap_blc, weight_kc[i])
    y_blc = F.silu(y_blc).to(x_blc.dtype)
    if not return_state:
        return y_blc
    # a copy: a view would keep the whole input alive for as long as the cache lives
    return y_blc, seen_blc[:, length:].transpose(1, 2).clone(memory_format=torch.contiguous_format)


# ---------------------------------------------------------------------------------------------------------- scan


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
    index_bl: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The scan over a whole sequence of any length, differentiable in every tensor.

    Gives y [b, l, h, p] in the dtype of `x_blhp`, and with `return_final_state` the state after the last position
    [b, h, p, n] in float32 (float64 for float64 inputs), which it should be kept in. `A_h` is negative
    (``-exp(A_log)``); head h uses group ``h // (heads / groups)``; `D_h` is [h] or [h, p]; step sizes are those before
    bias and softplus. `chunk_size`, None for `chunk_for`, changes speed and rounding, not the function. Where
    `index_bl` says each position's document, ascending along a row, each document starts from a state of zeros.
    `ValueError` where a shape does not fit or `chunk_size` is not positive.
    """
    b, length, h, p = x_blhp.shape
    g, n = B_blgn.shape[-2:]
    _check_shapes(dt_blh, (b, length, h), B_blgn, C_blgn, (b, length, g, n), initial_state_bhpn, (b, h, p, n))
    if index_bl is not None and (initial_state_bhpn is not None or return_final_state):
        raise ValueError("documents of a row start without a state; give no state")
    q = min(length, chunk_for(n)) if chunk_size is None else chunk_size
    if q < 1:
        raise ValueError(f"chunk_size must be positive, not {q}")
    dtype, heads = work_dtype(x_blhp, dt_blh, A_h, B_blgn, C_blgn, initial_state_bhpn), (g, h // g)
    if initial_state_bhpn is None:
        state = x_blhp.new_zeros((b, g, h // g * p, n), dtype=dtype)
    else:
        state = initial_state_bhpn.to(dtype).reshape(b, g, -1, n)
    A_gr = A_h.to(dtype).view(heads)
    size = max(1, PART // q) * q
    scan = partial(checkpoint, _part, use_reentrant=False) if length > size and torch.is_grad_enabled() else _part
    parts = []
    for at in range(0, length, size):
        part, index, before = slice(at, at + size), None, None
        if index_bl is not None:
            # whether the state before this part is that of its first position's document
            index, before = index_bl[:, part], index_bl[:, at - 1, None] if at else None
        x, dt, B, C = x_blhp[:, part], dt_blh[:, part], B_blgn[:, part], C_blgn[:, part]
        y, state = scan(x, dt, A_gr, B, C, D_h, dt_bias_h, q, state, index, before)
        parts.append(y)
    y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return (y, state.reshape(b, h, p, n)) if return_final_state else y


def _part(
    x_blhp: torch.Tensor,
    dt_blh: torch.Tensor,
    A_gr: torch.Tensor,
    B_blgn: torch.Tensor,
    C_blgn: torch.Tensor,
    D_h: torch.Tensor | None,
    dt_bias_h: torch.Tensor | None,
    q: int,
    state_bgin: torch.Tensor,
    index_bl: torch.Tensor | None,
    before_b1: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y [b, l, h, p] of a part of a row, in the dtype of `x_blhp`, and the state behind it; see `_scan`."""
    length, dtype, heads, index_bcq = x_blhp.shape[1], state_bgin.dtype, A_gr.shape, None
    x, dt = x_blhp.to(dtype), _step_size(dt_blh.to(dtype), dt_bias_h)
    x_bcgqrp, dt_bcgqr = _chunks(x.unflatten(2, heads), q), _chunks(dt.unflatten(2, heads), q)
    B_bcgqn, C_bcgqn = _chunks(B_blgn.to(dtype), q), _chunks(C_blgn.to(dtype), q)
    if index_bl is not None:  # behind the end nothing reads it
        index_bcq = F.pad(index_bl, (0, -length % q)).unflatten(1, (-1, q))
    y, state_bgin = _scan(x_bcgqrp, dt_bcgqr, B_bcgqn, C_bcgqn, A_gr, state_bgin, index_bcq, before_b1)
    return _skip(y[:, :length], x, D_h).to(x_blhp.dtype), state_bgin


def _chunks(t_bl: torch.Tensor, q: int) -> torch.Tensor:
    """[b, l, g, ...] to [b, c, g, q, ...]; behind the end are zeros: steps of size 0, which change no state."""
    missing = -t_bl.shape[1] % q
    if missing:
        t_bl = F.pad(t_bl, (0, 0) * (t_bl.dim() - 2) + (0, missing))
    return t_bl.unflatten(1, (-1, q)).transpose(2, 3)


def _scan(
    x_bcgqrp: torch.Tensor,
    dt_bcgqr: torch.Tensor,
    B_bcgqn: torch.Tensor,
    C_bcgqn: torch.Tensor,
    A_gr: torch.Tensor,
    state_bgin: torch.Tensor,
    index_bcq: torch.Tensor | None = None,
    before_b1: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scan without its skip, [b, c x q, h, p], and the state after it; dt is the step size itself.

    Names are those of the paper's Listing 1, whose A is dt x A and whose X is dt x x here. The heads of a group share
    B and C, and with them the products of states. In rows with documents a chunk gives on the state of its last
    position's document. `before_b1` is the document of the state that comes in, None where no position continues it.
    """
    x, B, C, dt = x_bcgqrp, B_bcgqn.contiguous(), C_bcgqn.contiguous(), dt_bcgqr.transpose(3, 4)
    A_cumsum_bcgrq = (dt * A_gr[..., None]).cumsum(-1)
    masked = torch.ones(2 * dt.shape[-1:], dtype=torch.bool, device=x.device).triu_(1)
    ended_bcq = continued_bcq = None
    if index_bcq is not None:
        masked = masked | (index_bcq[..., :, None] != index_bcq[..., None, :])[:, :, None, None]
        last_bc1 = index_bcq[..., -1:]
        ended_bcq = index_bcq != last_bc1
        first_b11 = last_bc1.new_full(last_bc1[:, :1].shape, -1) if before_b1 is None else before_b1[:, None]
        continued_bcq = index_bcq == torch.cat([first_b11, last_bc1[:, :-1]], dim=1)

    # 1. outputs inside of each chunk: the diagonal blocks
    segsum_bcgrqq = A_cumsum_bcgrq[..., :, None] - A_cumsum_bcgrq[..., None, :]
    L_bcgrqq = segsum_bcgrqq.masked_fill_(masked, -torch.inf).exp_()
    M_bcgrqq = (C @ B.transpose(-1, -2)).unsqueeze(3) * L_bcgrqq
    Y_diag_bcgqrp = (M_bcgrqq @ (x.transpose(3, 4) * dt[..., None])).transpose(3, 4)

    # 2. the state that each chunk adds
    chunk_cumsum_bcgr1 = A_cumsum_bcgrq[..., -1:]
    decay_states_bcgqr = (dt * (chunk_cumsum_bcgr1 - A_cumsum_bcgrq).exp()).transpose(3, 4)
    state_decay_out_bcgqr, decay_chunk_bcgr1 = A_cumsum_bcgrq.exp().transpose(3, 4), chunk_cumsum_bcgr1.exp()
    if ended_bcq is not None and continued_bcq is not None:
        decay_states_bcgqr = decay_states_bcgqr.masked_fill(ended_bcq[:, :, None, :, None], 0.0)
        state_decay_out_bcgqr = state_decay_out_bcgqr.masked_fill(~continued_bcq[:, :, None, :, None], 0.0)
        decay_chunk_bcgr1 = decay_chunk_bcgr1.masked_fill(~continued_bcq[:, :, None, None, -1:], 0.0)
    added_bcgin = (x * decay_states_bcgqr[..., None]).flatten(4).transpose(-1, -2) @ B

    # 3. the recurrence over chunks: the state before each
    decay_chunk_bcgi1 = decay_chunk_bcgr1.expand(*decay_chunk_bcgr1.shape[:-1], x.shape[-1]).flatten(3)[..., None]
    states = []
    for added, decay in zip(added_bcgin.unbind(1), decay_chunk_bcgi1.unbind(1), strict=True):
        states.append(state_bgin)
        state_bgin = torch.addcmul(added, state_bgin, decay)

    # 4. what these states put out: the off-diagonal blocks
    Y_off_bcgqrp = (C @ torch.stack(states, 1).transpose(-1, -2)).unflatten(-1, x.shape[-2:])
    Y_bcgqrp = torch.addcmul(Y_diag_bcgqrp, Y_off_bcgqrp, state_decay_out_bcgqr[..., None])
    return Y_bcgqrp.transpose(2, 3).flatten(3, 4).flatten(1, 2), state_bgin


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
    """One position of `ssd_chunked`, for decoding: y [b, h, p], and the new state in the dtype of the old one."""
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
