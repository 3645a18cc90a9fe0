# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The layout table walked both ways: tensors of a Hugging Face folder ⇄ Megatron's ⇄ those of its checkpoints.

Megatron fuses some tensors (`layout.fused`), and megatron-core's checkpoints store some in parts (`Row.parts`). No
tensor is known by name here, and neither NeMo nor Megatron is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.record import MEGATRON_LAYER
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.core.layout import (
    FIRST,
    LAST,
    Tensor,
    by_name,
    groups,
    megatron_shape,
    megatron_tensors,
    named,
    part_sizes,
    table,
    tensors,
)
from nemo_elastic.errors import ElasticError, bad

from .raw import Raw
from .torch_io import to_torch

__all__ = [
    "apart",
    "extra_states",
    "from_megatron",
    "from_parts",
    "missing",
    "parts_of",
    "to_megatron",
    "to_parts",
    "whole_sizes",
]

_LAYER = re.compile(r"decoder\.layers\.\d+\.")


def to_megatron(
    parent: Parent, member: Subnet, state: Mapping[str, Any], grouped: bool = False
) -> dict[str, torch.Tensor]:
    """Give a member's whole tensors megatron-core's names and layout.

    Args:
        parent: shape the member was cut from.
        member: any member, uniform or not; layers of `state` are numbered from zero within it.
        state: torch tensors, numpy arrays or `Raw` words of a safetensors file, by HF name. A tied model may bring
            `lm_head.weight` or not.
        grouped: with the names of experts that one module holds together, instead of those of one module each.

    Returns:
        Tensors by name in `MambaModel.state_dict()`, on the CPU; views of the input where nothing had to be fused.

    Raises:
        ElasticError: a tensor is missing, has another shape, or does not belong to the member.
    """
    held = megatron_tensors(parent, member, grouped)
    allowed = {t.hf for together in held.values() for t in together} | ({by_name("head").hf} if parent.tied else set())
    unknown = sorted(set(state) - allowed)
    if unknown:
        raise ElasticError(f"tensors: {unknown[0]} is not a tensor of this member ({len(unknown)} such)")
    return {name: _fused(parent, [(t, _checked(t, state)) for t in together]) for name, together in held.items()}


def from_megatron(parent: Parent, member: Subnet, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo `to_megatron`.

    Args:
        parent: shape the member was cut from.
        member: the member.
        state: whole Megatron tensors by name; others may be among them. Experts may have either name.

    Returns:
        Tensors by HF name.

    Raises:
        ElasticError: a tensor is missing, or has another shape.
    """
    out: dict[str, torch.Tensor] = {}
    others = megatron_tensors(parent, member, grouped=True)
    for (name, together), other in zip(megatron_tensors(parent, member).items(), others, strict=True):
        if name not in state and other in state:
            name = other
        if name not in state:
            raise missing(name)
        out |= zip((t.hf for t in together), apart(parent, together, state[name]), strict=True)
    return out


def apart(parent: Parent, together: Sequence[Tensor], value: torch.Tensor) -> list[torch.Tensor]:
    """What a whole Megatron tensor holds, as a Hugging Face folder has it.

    Args:
        parent: shape of the parent.
        together: what it holds, see `layout.megatron_tensors`.
        value: the tensor.

    Raises:
        ElasticError: it has another shape.
    """
    first, wanted = together[0], megatron_shape(together)
    if tuple(value.shape) != wanted:
        raise bad(f"checkpoint.{first.megatron}", tuple(value.shape), f"the shape {wanted} of the model")
    if len(together) == 1:
        return [value]
    count = groups(parent, first.row)
    each = value.unflatten(0, (count, -1)).split([t.shape[0] // count for t in together], 1)
    return [part.flatten(0, 1) for part in each]


def _fused(parent: Parent, together: Sequence[tuple[Tensor, torch.Tensor]]) -> torch.Tensor:
    values = [value for _, value in together]
    if len(values) == 1:
        return values[0]
    count = groups(parent, together[0][0].row)
    return torch.cat([value.unflatten(0, (count, -1)) for value in values], 1).flatten(0, 1)


def parts_of(name: str) -> tuple[str, ...]:
    """Names under which a checkpoint stores the parts of a Megatron tensor; none where it stores it whole."""
    template = _LAYER.sub(MEGATRON_LAYER, name)
    return tuple(f"{name}.{part}" for row in table() if row.megatron == template for part in row.parts)


def to_parts(parent: Parent, member: Subnet, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give Megatron tensors as megatron-core's checkpoints store them: so that each part can be resharded evenly.

    Args:
        parent: shape the member was cut from.
        member: the member.
        state: its whole Megatron tensors by name.
    """
    out = dict(state)
    for t in tensors(parent, member):
        if t.row.parts:
            pieces = out.pop(t.megatron).split(part_sizes(parent, t.row, 0, member, t.layer))
            out |= zip(parts_of(t.megatron), pieces, strict=True)
    return out


def from_parts(parent: Parent, member: Subnet, stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo `to_parts`; what is stored whole already is left so.

    Raises:
        ElasticError: a part is missing.
    """
    out = dict(stored)
    for t in tensors(parent, member):
        if t.row.parts and t.megatron not in out:
            for part in parts_of(t.megatron):
                if part not in out:
                    raise missing(part)
            out[t.megatron] = torch.cat([out.pop(part) for part in parts_of(t.megatron)])
    return out


def whole_sizes(stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Sizes by the names that a model has, where those of a checkpoint are given: parts are put together.

    Raises:
        ElasticError: some parts of a tensor are there and others are not.
    """
    out: dict[str, tuple[int, ...]] = {}
    for name, size in stored.items():
        whole = name.rpartition(".")[0]
        parts = parts_of(whole)
        if name not in parts:
            out[name] = size
            continue
        for other in parts:
            if not stored.get(other):
                raise ElasticError(f"tensor {other} is missing")
        out[whole] = (sum(stored[other][0] for other in parts), *size[1:])
    return out


def extra_states(member: Subnet) -> list[str]:
    """Names of the (empty) `_extra_state` objects of a member's checkpoint."""
    places = [(row, i) for i, layer in enumerate(member.layers) for row in KINDS[layer.type].rows]
    places += [(row, 0) for row in (*FIRST, *LAST)]
    return [f"{named(module, i)}._extra_state" for row, i in places for module in row.extra]


def missing(name: str) -> ElasticError:
    return ElasticError(f"checkpoint: tensor {name} is missing")


def _checked(t: Tensor, state: Mapping[str, Any]) -> torch.Tensor:
    if t.hf not in state:
        raise ElasticError(f"tensors: {t.hf} is missing")
    value = state[t.hf]
    # a mapped file stays unread until it is written
    value = value.detach().cpu() if isinstance(value, torch.Tensor) else to_torch(Raw.of(value, t.hf), copy=False)
    if tuple(value.shape) != t.shape:
        raise bad(f"tensors.{t.hf}", tuple(value.shape), f"this member has {t.shape}")
    return value
