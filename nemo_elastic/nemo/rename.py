# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""HF tensors of any member → Megatron tensors, and → the pieces that a distributed checkpoint stores.

Driven by the layout table alone; neither NeMo nor Megatron is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.export.safetensors_io import Raw
from nemo_elastic.export.torch_io import to_torch
from nemo_elastic.family import Parent, Subnet
from nemo_elastic.layout import BY_NAME, Tensor, sizes, tensors

from .inferred import PARTS

_QKV = ("attention.q", "attention.k", "attention.v")

#: Modules that carry an `_extra_state` (FP8 scales) in NeMo's TransformerEngine layers. A strict load asks for the
#: object even where it says nothing, so a checkpoint without it would not load on a GPU.
EXTRA_STATE = {
    "mamba": ("mixer.in_proj", "mixer.out_proj"),
    "mlp": ("mlp.linear_fc1", "mlp.linear_fc2"),
    "attention": ("self_attention.linear_qkv", "self_attention.core_attention", "self_attention.linear_proj"),
}


def megatron_tensors(parent: Parent, member: Subnet, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Rename a member's whole HF tensors to megatron-core's names; queries, keys and values become one tensor.

    Args:
        parent: shape the member was cut from.
        member: any member, uniform or not; layers of `state` are numbered from zero within it.
        state: torch tensors, numpy arrays or `Raw` words of a safetensors file, by HF name. A tied model may bring
            `lm_head.weight` or not.

    Returns:
        Tensors by name in `MambaModel.state_dict()`, on the CPU; views of the input where nothing had to be fused.

    Raises:
        ElasticError: a tensor is missing, has another shape, or does not belong to the member.
    """
    wanted = tensors(parent, member)
    allowed = {t.hf for t in wanted} | ({BY_NAME["head"].hf} if parent.tied else set())
    unknown = sorted(set(state) - allowed)
    if unknown:
        raise ElasticError(f"tensors: {unknown[0]} is not a tensor of this member ({len(unknown)} such)")
    out: dict[str, torch.Tensor] = {}
    fused: dict[str, list[torch.Tensor]] = {}
    for t in wanted:
        value = _checked(t, state)
        if t.row.name in _QKV:  # the table lists them in the order in which Megatron interleaves them
            fused.setdefault(t.megatron, []).append(value.unflatten(0, (parent.kv_heads, -1)))
        else:
            out[t.megatron] = value
    return out | {name: torch.cat(groups, 1).flatten(0, 1) for name, groups in fused.items()}


def stored_tensors(parent: Parent, member: Subnet, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Split Megatron tensors as megatron-core stores them: Mamba's fused projections fall apart in their parts.

    The parts are stored apart so that each can be resharded evenly at any tensor-parallel size.
    """
    out = dict(state)
    for t in tensors(parent, member):
        for end, names in PARTS.items():
            if t.megatron.endswith(end):
                pieces = out.pop(t.megatron).split(_part_sizes(parent, member, t))
                out |= {f"{t.megatron}.{name}": piece for name, piece in zip(names, pieces, strict=True)}
    return out


def extra_states(member: Subnet) -> list[str]:
    """Names of the (empty) `_extra_state` objects of a member's checkpoint."""
    names = [f"decoder.layers.{i}.{m}" for i, layer in enumerate(member.layers) for m in EXTRA_STATE[layer.type]]
    return [f"{name}._extra_state" for name in [*names, "decoder.final_norm", "output_layer"]]


def _part_sizes(parent: Parent, member: Subnet, t: Tensor) -> list[int]:
    size = sizes(parent, member.hidden, t.layer)
    return [math.prod(size[term] for term in part) for part in t.row.dims[0]]


def _checked(t: Tensor, state: Mapping[str, Any]) -> torch.Tensor:
    if t.hf not in state:
        raise ElasticError(f"tensors: {t.hf} is missing")
    value = _as_torch(state[t.hf], t.hf)
    if tuple(value.shape) != t.shape:
        raise bad(f"tensors.{t.hf}", tuple(value.shape), f"this member has {t.shape}")
    return value


def _as_torch(value: Any, name: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return to_torch(Raw.of(value, name), copy=False)  # a mapped file stays unread until it is written
