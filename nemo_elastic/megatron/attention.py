# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Grouped-query attention that runs a slice of its query heads, the same number in every key-value group."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention

from nemo_elastic.core.kinds.attention import ATTENTION_HEADS
from nemo_elastic.nn.attention import causal_attention

from .run import WHOLE, Run


class ElasticSelfAttention(SelfAttention):
    """megatron-core's parameters and sharding; causal SDPA without positions, as Nemotron-H has none."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: torch.Tensor, run: Run = WHOLE, index: int = -1, **_: Any
    ) -> torch.Tensor:
        """Attend over [s, b, d] (width of the run); returns [s, b, d], to be added to the residual stream."""
        qkv_sbo = self.linear_qkv(hidden_states, run, index, run.select("attention.q", 0, index))
        kv, dim = self.num_query_groups_per_partition, self.hidden_size_per_attention_head
        qkv = qkv_sbo.unflatten(-1, (kv, -1, dim)).permute(1, 2, 3, 0, 4)  # b, groups, queries + 2, s, dim
        q_bhsd = qkv[:, :, :-2].flatten(1, 2)
        y_bhsd = causal_attention(q_bhsd, qkv[:, :, -2], qkv[:, :, -1])
        y_sbhd = y_bhsd.permute(2, 0, 1, 3)
        run.watch("attention", index, y_sbhd)
        gates = run.gates(index)
        if gates is not None:
            y_sbhd = y_sbhd * gates[ATTENTION_HEADS].to(y_sbhd.dtype)[:, None]
        return self.linear_proj(y_sbhd.flatten(2), run, run.select("attention.out", 1, index))
