# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pages of the largest member for every member: no member has a cache of its own.

Attention of a smaller member keeps the same heads of keys and values, so it reads and writes pages of the same shape.
Its Mamba states are smaller: they lie at the beginning of the same page.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2
from vllm.utils.torch_utils import _encode_layer_name


class GuestAttention(Attention):
    """Attention on the pages of another layer. vLLM's layers that share pages only read them; this one writes too."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output_shape: torch.Size | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        q = query.view(-1, self.num_heads, self.head_size)
        k = key.view(-1, self.num_kv_heads, self.head_size)
        v = value.view(-1, self.num_kv_heads, self.head_size_v)
        out = torch.empty(
            (q.shape[0], self.num_heads, self.head_size_v), dtype=output_dtype or query.dtype, device=query.device
        )
        name, written = _encode_layer_name(self.layer_name), None
        if not self.attn_backend.forward_includes_kv_cache_update:
            # a compiler drops a write that nothing asks for
            written = torch.ops.vllm.unified_kv_cache_update(k, v, name)
        torch.ops.vllm.unified_attention_with_output(q, k, v, out, name, kv_cache_dummy_dep=written)
        return out.view(-1, self.num_heads * self.head_size_v)


class GuestMamba(MambaMixer2):
    """A Mamba layer without pages of its own."""

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> None:
        return None


class HostMamba(MambaMixer2):
    """A Mamba layer of the largest member: gets pages, and hands them on."""

    guests: tuple[GuestMamba, ...] = ()

    def bind_kv_cache(self, kv_cache: torch.Tensor) -> None:
        super().bind_kv_cache(kv_cache)
        for guest in self.guests:
            guest.bind_kv_cache(kv_cache)


def share_attention(guest: Attention, host: Attention) -> None:
    """Let `guest` use the pages of `host`."""
    guest.__class__ = GuestAttention  # vLLM's model builds the layer, by its own class
    guest.kv_sharing_target_layer_name = host.layer_name


def share_mamba(guest: MambaMixer2, host: MambaMixer2) -> tuple[str, str]:
    """Let `guest` use the pages of `host`; gives the names of both."""
    guest.__class__, host.__class__ = GuestMamba, HostMamba
    host.guests = (*getattr(host, "guests", ()), guest)
    return guest.prefix, host.prefix


def share_metadata(pairs: list[tuple[str, str]]) -> None:
    """Let guests find where this step's requests have their states: vLLM tells it to layers with pages only."""
    metadata: Any = get_forward_context().attn_metadata
    if isinstance(metadata, dict):
        for guest, host in pairs:
            if host in metadata:
                metadata[guest] = metadata[host]
