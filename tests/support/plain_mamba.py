# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The inside of a Mamba-2 layer as one writes it for autograd: chunks, matrix products, no backward pass by hand.

Letters as in `nn.scan`: c chunk, q and s positions in it, g group, r head of a group, p channel, n state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def plain_inside(
    zxbcdt_blo: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor,
    A_h: torch.Tensor,
    D_h: torch.Tensor,
    dt_bias_h: torch.Tensor,
    norm_i: torch.Tensor,
    groups: int,
    state: int,
    eps: float,
    chunk: int = 32,
) -> torch.Tensor:
    """What `nn.mamba.mamba_inside` computes; the length has to be a multiple of `chunk`."""
    inner, heads = norm_i.shape[0], A_h.shape[0]
    z, xbc, dt = zxbcdt_blo.split([inner, inner + 2 * groups * state, heads], -1)
    taps, length = conv_weight.shape[-1], xbc.shape[1]
    xbc = F.conv1d(xbc.transpose(1, 2), conv_weight, conv_bias, padding=taps - 1, groups=conv_weight.shape[0])
    xbc = F.silu(xbc[..., :length]).transpose(1, 2)
    x, B, C = xbc.split([inner, groups * state, groups * state], -1)
    x = x.unflatten(-1, (groups, heads // groups, -1))
    y = plain_scan(x, F.softplus(dt + dt_bias_h), A_h, B, C, groups, chunk) + D_h.view(groups, -1, 1) * x
    gated = (y.flatten(2) * F.silu(z)).unflatten(-1, (groups, -1))
    return F.rms_norm(gated, gated.shape[-1:], None, eps).flatten(-2) * norm_i


def plain_scan(
    x_blgrp: torch.Tensor,
    dt_blh: torch.Tensor,
    A_h: torch.Tensor,
    B_bl: torch.Tensor,
    C_bl: torch.Tensor,
    groups: int,
    chunk: int,
) -> torch.Tensor:
    """The scan without its skip, [b, l, g, r, p]; dt is the step size itself."""
    heads = (groups, A_h.shape[0] // groups)
    x = x_blgrp.unflatten(1, (-1, chunk)).permute(0, 1, 3, 4, 2, 5)  # b c g r q p
    B, C = (t.unflatten(-1, (groups, -1)).unflatten(1, (-1, chunk)).transpose(2, 3) for t in (B_bl, C_bl))  # b c g q n
    dt = dt_blh.unflatten(-1, heads).unflatten(1, (-1, chunk)).permute(0, 1, 3, 4, 2)  # b c g r q
    decay = (dt * A_h.view(heads)[..., None]).cumsum(-1)
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    fade = (decay[..., :, None] - decay[..., None, :]).masked_fill(~causal, -torch.inf).exp()
    put = x * dt[..., None]
    inside = ((C @ B.transpose(-1, -2))[:, :, :, None] * fade) @ put
    left = (put * (decay[..., -1:] - decay).exp()[..., None]).transpose(-1, -2) @ B[:, :, :, None]  # b c g r p n
    keep = decay[..., -1].exp()[..., None, None]
    state, before = torch.zeros_like(left[:, 0]), []
    for i in range(left.shape[1]):
        before.append(state)
        state = state * keep[:, i] + left[:, i]
    carried = (C[:, :, :, None] @ torch.stack(before, 1).transpose(-1, -2)) * decay.exp()[..., None]
    return (inside + carried).permute(0, 1, 4, 2, 3, 5).flatten(1, 2)
