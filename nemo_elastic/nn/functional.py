# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What layers of every kind compute with: the dtype of numerics, norms over a given number of channels, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from nemo_elastic.core.layout import is_exact
from nemo_elastic.nn.documents import Documents

Count = int | float | torch.Tensor | None


def work_dtype(*tensors: torch.Tensor | None) -> torch.dtype:
    """The dtype to compute in: float32, or float64 as soon as one of the tensors is float64.

    Half precision is never accumulated in, and double precision is never lost, so that gradients can be checked.
    """
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def cast_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a weight in a model cast to `dtype`: by its name at least float32 where no cast may round."""
    return torch.promote_types(dtype, torch.float32) if is_exact(name) else dtype


def count_not_finite(t: torch.Tensor) -> int:
    """How many values are infinite or not a number.

    One pass where none is, a tenth of the time of a look at each: what is no number stays so in a sum. A sum that
    overflows by itself is looked at.
    """
    if bool(t.sum(dtype=torch.promote_types(t.dtype, torch.float32)).isfinite()):
        return 0
    return int((~t.isfinite()).sum())


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor | None, eps: float | torch.Tensor, count: Count = None, groups: int = 1
) -> torch.Tensor:
    """RMSNorm over the channels of each group: ``x / sqrt(sum(x**2) / count + eps) * weight``, in the dtype of `x`.

    A nested width keeps a prefix of d of D channels. The norm of the submodel averages over d, so on masked input (D
    channels with zeros behind the first d) the mean must be taken over d as well, and over the sum of the gates when
    the mask is soft: that number is `count`, of ONE group. It is None for all channels, a positive number, or a
    tensor, 0-dim or [groups], which is differentiable, as is a 0-dim `eps`. `ValueError` where groups do not divide
    the channels, or for another `count`.
    """
    channels, dtype = x.shape[-1], work_dtype(x, weight)
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels are not groups={groups} equal groups")
    size = channels // groups
    y = x.to(dtype) if groups == 1 else x.to(dtype).unflatten(-1, (groups, size))
    own = None if weight is None else weight.to(dtype)
    if isinstance(count, torch.Tensor):
        if count.dim() > 1 or (count.dim() == 1 and count.shape[0] != groups):
            raise ValueError(f"count is a 0-dim tensor or one of [{groups}] (groups), not {tuple(count.shape)}")
        count = count.to(dtype).unsqueeze(-1)
    if isinstance(count, torch.Tensor) or isinstance(eps, torch.Tensor):
        # the sum of gates is never 0: every choice of widths keeps at least one channel
        y = y * (y.square().sum(-1, keepdim=True) / (size if count is None else count) + eps).rsqrt()
    else:
        # a stock norm averages over all channels: sum / count + eps = size / count * (sum / size + eps * count / size)
        ratio = 1.0 if count is None else count / size
        if not ratio > 0:
            raise ValueError(f"count must be positive, not {count}")
        if groups == 1 and ratio == 1:
            return F.rms_norm(y, (size,), own, eps).to(x.dtype)
        y = F.rms_norm(y, (size,), None, eps * ratio)
        y = y if ratio == 1 else y * math.sqrt(ratio)
    y = y if groups == 1 else y.flatten(-2)
    return (y if own is None else y * own).to(x.dtype)


def gated_rms_norm(
    y: torch.Tensor, z: torch.Tensor, weight: torch.Tensor | None, groups: int, eps: float, count: Count = None
) -> torch.Tensor:
    """Mamba-2's gated norm, gate first: `rms_norm` of ``y * silu(z)`` over the channels of each group.

    This is ``norm_before_gate=False`` with ``group_size = channels / groups`` of mamba_ssm's RMSNormGated.
    """
    dtype = work_dtype(y, z, weight)
    return rms_norm(y.to(dtype) * F.silu(z.to(dtype)), weight, eps, count, groups).to(y.dtype)


def causal_attention(
    q_bhld: torch.Tensor,
    k_bgld: torch.Tensor,
    v_bgld: torch.Tensor,
    past_len: int | Sequence[int] = 0,
    documents: Documents | None = None,
) -> torch.Tensor:
    """Scaled dot-product attention in which query i sees the keys 0 .. past_len + i; scale ``1 / sqrt(d)``.

    Query heads belong to key/value groups in order: head h to group ``h // (heads / groups)``. A head count that
    differs from the parent's needs nothing here, as long as every group keeps the same number. Keys and values are
    those of the cache, then those of the queries' own tokens. `past_len` is one number for all sequences or one of
    each: the keys are then as long as the longest needs, and each sequence sees its own. Each of the `documents` of a
    row attends by itself, at the price of its own length. `ValueError` where groups do not divide heads, or the keys
    have another length.
    """
    if documents is not None:
        return _by_document(q_bhld, k_bgld, v_bgld, documents)
    heads, length = q_bhld.shape[1:3]
    groups, keys = k_bgld.shape[1:3]
    if heads % groups:
        raise ValueError(f"{heads} query heads are not shared equally by {groups} key/value groups")
    longest = past_len if isinstance(past_len, int) else max(past_len)
    if keys != longest + length:
        raise ValueError(f"{keys} keys for past_len={past_len} and {length} queries: {longest + length} are needed")
    mask_ls = None
    if not isinstance(past_len, int):
        past_b, at_l, at_s = (torch.tensor(past_len), torch.arange(length), torch.arange(keys))
        mask_b1ls = at_s <= (past_b[:, None] + at_l)[:, None, :, None]
        mask_ls = mask_b1ls.to(q_bhld.device)
    elif past_len and length > 1:
        # is_causal aligns the triangle with the first key, so queries behind a cache need it written out
        mask_ls = torch.ones(length, keys, dtype=torch.bool, device=q_bhld.device).tril_(past_len)
    return F.scaled_dot_product_attention(
        q_bhld,
        k_bgld,
        v_bgld,
        attn_mask=mask_ls,
        is_causal=mask_ls is None and length > 1,
        enable_gqa=heads != groups,
    )


def _by_document(
    q_bhld: torch.Tensor, k_bgld: torch.Tensor, v_bgld: torch.Tensor, documents: Documents
) -> torch.Tensor:
    """`causal_attention` of each document of each row; nothing of the size of length x length is made."""
    rows = zip(*(t.split(1) for t in (q_bhld, k_bgld, v_bgld)), documents.lengths, strict=True)
    out = []
    for *row, lengths in rows:
        parts = zip(*(t.split(lengths, 2) for t in row), strict=True)
        out.append(torch.cat([causal_attention(*part) for part in parts], 2))
    return torch.cat(out)
