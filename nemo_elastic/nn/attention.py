# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Causal attention with grouped queries and no positional embedding."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def causal_attention(
    q_bhld: torch.Tensor, k_bgld: torch.Tensor, v_bgld: torch.Tensor, past_len: int | Sequence[int] = 0
) -> torch.Tensor:
    """Scaled dot-product attention in which query i sees the keys 0 .. past_len + i; scale ``1 / sqrt(d)``.

    Query heads belong to key/value groups in order: head h to group ``h // (heads / groups)``. A head count that
    differs from the parent's needs nothing here, as long as every group keeps the same number.

    Args:
        q_bhld: Queries ``[b, heads, l, d]``.
        k_bgld: Keys ``[b, groups, past_len + l, d]``: what the cache holds, then those of the queries' own tokens.
        v_bgld: Values, same shape.
        past_len: Number of tokens before the first query; one for all sequences, or one of each, where the keys are
            as long as the longest needs and what is behind a sequence's own is not seen.

    Returns:
        ``[b, heads, l, d]`` in the dtype of the queries.

    Raises:
        ValueError: ``groups`` does not divide ``heads``, or the keys are not ``past_len + l`` long.
    """
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
