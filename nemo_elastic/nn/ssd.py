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

import torch
import torch.nn.functional as F

from nemo_elastic.nn.dtype import work_dtype


def ssd_chunked(
    x_blhp: torch.Tensor,
    dt_blh: torch.Tensor,
    A_h: torch.Tensor,
    B_blgn: torch.Tensor,
    C_blgn: torch.Tensor,
    D_h: torch.Tensor | None = None,
    dt_bias_h: torch.Tensor | None = None,
    chunk_size: int = 32,
    initial_state_bhpn: torch.Tensor | None = None,
    return_final_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The scan over a whole sequence of any length, differentiable in every tensor.

    Args:
        x_blhp: Inputs ``[b, l, h, p]``.
        dt_blh: Step sizes before bias and softplus ``[b, l, h]``.
        A_h: Decay rates ``[h]``, negative (``-exp(A_log)``).
        B_blgn: Input maps ``[b, l, g, n]``; head h uses group ``h // (heads / groups)``.
        C_blgn: Output maps ``[b, l, g, n]``.
        D_h: Skip ``[h]`` (or ``[h, p]``), or None.
        dt_bias_h: Added to ``dt_blh`` ``[h]``, or None.
        chunk_size: Positions per chunk. Changes speed and rounding, not the function. 32 is the fastest on a CPU at
            p = n = 16 (by a factor of two over 64); large p and n prefer 64 or 128.
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
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be positive, not {chunk_size}")
    dtype = work_dtype(x_blhp, dt_blh, A_h, B_blgn, C_blgn, initial_state_bhpn)
    r = h // g
    q = min(chunk_size, length)
    c = -(-length // q)
    x, B, C = x_blhp.to(dtype), B_blgn.to(dtype), C_blgn.to(dtype)
    dt = _step_size(dt_blh.to(dtype), dt_bias_h)

    # Padded positions have dt = 0 and x = 0: they neither decay the state nor add to it.
    pad = c * q - length
    x_bchqp = _pad_length(x, pad).view(b, c, q, h, p).transpose(2, 3)
    dt_bchq = _pad_length(dt, pad).view(b, c, q, h).transpose(2, 3)
    B_bcgqn, C_bcgqn = (_pad_length(t, pad).view(b, c, q, g, n).transpose(2, 3) for t in (B, C))

    # log of the decay from the chunk's start to just after each position: falls along q
    decay_bchq = (dt_bchq * A_h.to(dtype).view(h, 1)).cumsum(-1)
    end_bch = decay_bchq[..., -1]

    # dt_j weighs what position j puts in. Added to the exponent it costs nothing; multiplied it is a pass over q x q.
    # The clamp keeps a dt that underflows to 0 (padding, for one) from becoming 0 * inf = nan in the backward pass.
    source_bchq = dt_bchq.clamp_min(torch.finfo(dtype).tiny).log() - decay_bchq

    # Inside a chunk: y_i = sum_{j <= i} (C_i . B_j) exp(decay_i - decay_j) dt_j x_j. Mask before exp: above the
    # diagonal decay_i - decay_j is positive and its exponential may be inf, whose gradient would be nan.
    ahead_qq = torch.ones(q, q, dtype=torch.bool, device=x.device).triu_(1)
    mix_bchqq = (decay_bchq[..., :, None] + source_bchq[..., None, :]).masked_fill_(ahead_qq, float("-inf")).exp_()
    scores_bcgqq = C_bcgqn @ B_bcgqn.transpose(-1, -2)
    mix_bcgrqq = mix_bchqq.view(b, c, g, r, q, q) * scores_bcgqq.unsqueeze(3)
    y_bchqp = mix_bcgrqq.view(b, c, h, q, q) @ x_bchqp

    # What each chunk adds to the state at its end; the heads of a group share B, so they share one matrix product
    weight_bchq = (end_bch[..., None] + source_bchq).exp()
    weighted_bchpq = (x_bchqp * weight_bchq[..., None]).transpose(-1, -2)
    added_bchpn = (weighted_bchpq.reshape(b, c, g, r * p, q) @ B_bcgqn).view(b, c, h, p, n)

    # A loop over products rather than differences of a running sum over all chunks: no cancellation at 48k tokens
    keep_bch11 = end_bch.exp()[..., None, None]
    state = x.new_zeros(b, h, p, n) if initial_state_bhpn is None else initial_state_bhpn.to(dtype)
    before = []
    for i in range(c):
        before.append(state)
        state = torch.addcmul(added_bchpn[:, i], state, keep_bch11[:, i])
    before_bcgrpn = torch.stack(before, dim=1).view(b, c, g, r * p, n)
    carried_bchpq = (before_bcgrpn @ C_bcgqn.transpose(-1, -2)).view(b, c, h, p, q)
    y_bchqp = torch.addcmul(y_bchqp, carried_bchpq.transpose(-1, -2), decay_bchq.exp()[..., None])

    y = y_bchqp.transpose(2, 3).reshape(b, c * q, h, p)[:, :length]
    y = _skip(y, x, D_h).to(x_blhp.dtype)
    return (y, state) if return_final_state else y


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


def _pad_length(t: torch.Tensor, pad: int) -> torch.Tensor:
    """Appends ``pad`` zeros along dimension 1."""
    return F.pad(t, (0, 0) * (t.dim() - 2) + (0, pad)) if pad else t


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
