# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The causal depthwise convolution of Mamba-2, with its SiLU."""

import torch
import torch.nn.functional as F

from nemo_elastic.nn.dtype import work_dtype


def causal_conv1d(
    x_blc: torch.Tensor,
    weight_ck: torch.Tensor,
    bias_c: torch.Tensor | None,
    state_bck: torch.Tensor | None = None,
    return_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """``silu(bias + sum_i weight[:, i] * x[l - (k - 1) + i])``: every channel sees its own last k inputs.

    Runs as F.conv1d with ``groups=c``: on a CPU it needs half the time of a sum of k shifted products, forward and
    backward together. A single position behind a state is one product instead, which is many times faster than both.

    Args:
        x_blc: Input ``[b, l, c]``.
        weight_ck: Taps, oldest first, ``[c, k]`` or ``[c, 1, k]``.
        bias_c: ``[c]`` or None.
        state_bck: The k - 1 inputs before ``x_blc``, oldest first, ``[b, c, k - 1]``; None for zeros.
        return_state: Also return the last k - 1 inputs, to go on from here.

    Returns:
        ``[b, l, c]`` in the dtype of ``x_blc``; with ``return_state`` also the new state ``[b, c, k - 1]``.

    Raises:
        ValueError: A shape does not fit.
    """
    batch, length, channels = x_blc.shape
    weight_c1k = weight_ck if weight_ck.dim() == 3 else weight_ck.unsqueeze(1)
    taps = weight_c1k.shape[-1]
    if weight_c1k.shape != (channels, 1, taps):
        raise ValueError(f"weight {tuple(weight_ck.shape)} is neither [c, k] nor [c, 1, k] for c={channels} channels")
    past = taps - 1
    if state_bck is not None and state_bck.shape != (batch, channels, past):
        raise ValueError(f"state {tuple(state_bck.shape)} is not [b, c, k - 1] = {(batch, channels, past)}")
    dtype = x_blc.dtype
    bias = None if bias_c is None else bias_c.to(dtype)
    x_bcl = x_blc.transpose(1, 2)
    if state_bck is not None:
        x_bcl = torch.cat([state_bck.to(dtype), x_bcl], dim=2)
    elif past:
        x_bcl = F.pad(x_bcl, (past, 0))
    if state_bck is not None and length == 1:
        work = work_dtype(x_bcl)
        y_bc = (x_bcl.to(work) * weight_c1k[:, 0].to(work)).sum(-1)
        y_bcl = (y_bc if bias is None else y_bc + bias.to(work)).to(dtype).unsqueeze(-1)
    else:
        y_bcl = F.conv1d(x_bcl, weight_c1k.to(dtype), bias, groups=channels)
    y_blc = F.silu(y_bcl).transpose(1, 2)
    if not return_state:
        return y_blc
    # a copy: a view would keep the whole input alive for as long as the cache lives
    return y_blc, x_bcl[:, :, length : length + past].clone()
