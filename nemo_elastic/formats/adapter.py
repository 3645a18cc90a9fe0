# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The layout table walked both ways: tensors of a Hugging Face folder ⇄ Megatron's ⇄ those of its checkpoints.

Megatron fuses some tensors (`layout.fused`), and megatron-core's checkpoints store some in parts (`Row.parts`) and
many as one (`Row.stacked`). No tensor is known by name here, and neither NeMo nor Megatron is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.record import MEGATRON_LAYER
from nemo_elastic.core.layout import (
    Tensor,
    by_megatron,
    by_name,
    groups,
    megatron_shape,
    named,
    part_sizes,
    table,
)
from nemo_elastic.core.prediction import Prediction, all_tensors
from nemo_elastic.errors import ElasticError, bad, inside

from .tensor import Tensor as Unread

__all__ = [
    "apart",
    "extra_states",
    "parts_of",
    "stacked_of",
    "to_megatron",
    "to_parts",
    "whole_sizes",
]

#: prefixes of layers: of the model and of MTP (`core.prediction`)
_LAYER = re.compile(r"(?:decoder|mtp\.layers\.\d+\.mtp_model_layer)\.layers\.\d+\.")
_ANY = named(MEGATRON_LAYER, 0)
#: maximum tensors in a stack: more than any model has, but few enough names for memory
_MOST = 10_000


def to_megatron(
    parent: Parent, member: Subnet, state: Mapping[str, Any], prediction: Prediction | None = None
) -> dict[str, torch.Tensor]:
    """Give a member's whole tensors megatron-core's names and layout.

    Args:
        parent: shape the member was cut from.
        member: any member, uniform or not; layers of `state` are numbered from zero within it.
        state: torch tensors, numpy arrays or tensors of a file, by HF name. A tied model may bring
            `lm_head.weight` or not.
        prediction: layers that predict further tokens, whose tensors are in `state`, too.

    Returns:
        Tensors by name in `MambaModel.state_dict()`, on the CPU; views of the input where nothing had to be fused.
    """
    held = by_megatron(all_tensors(parent, member, prediction))
    allowed = {t.hf for together in held.values() for t in together} | ({by_name("head").hf} if parent.tied else set())
    unknown = sorted(set(state) - allowed)
    if unknown:
        raise ElasticError(f"tensors: {unknown[0]} is not a tensor of this member ({len(unknown)} in all)")
    return {name: _fused(parent, [(t, _checked(t, state)) for t in together]) for name, together in held.items()}


def apart(parent: Parent, together: Sequence[Tensor], value: torch.Tensor) -> list[torch.Tensor]:
    """Split a whole Megatron tensor into the tensors of a Hugging Face folder.

    Args:
        parent: shape of the parent.
        together: the tensors that it concatenates, see `layout.megatron_tensors`.
        value: the tensor.
    """
    first, wanted = together[0], megatron_shape(together)
    if tuple(value.shape) != wanted:
        raise bad(f"checkpoint.{first.megatron}", tuple(value.shape), f"the shape {wanted} of the model")
    if len(together) == 1:
        return [value]
    count = groups(parent, first.row, first.layer)
    each = value.unflatten(0, (count, -1)).split([t.shape[0] // count for t in together], 1)
    return [part.flatten(0, 1) for part in each]


def _fused(parent: Parent, together: Sequence[tuple[Tensor, torch.Tensor]]) -> torch.Tensor:
    values = [value for _, value in together]
    if len(values) == 1:
        return values[0]
    first, _ = together[0]
    count = groups(parent, first.row, first.layer)
    return torch.cat([value.unflatten(0, (count, -1)) for value in values], 1).flatten(0, 1)


def parts_of(name: str) -> tuple[str, ...]:
    """Names under which a checkpoint stores the parts of a Megatron tensor; none where it stores it whole."""
    template = _LAYER.sub(MEGATRON_LAYER, name)
    return tuple(f"{name}.{part}" for row in table() if row.megatron == template for part in row.parts)


def stacked_of(name: str) -> tuple[str, int] | None:
    """Name of the checkpoint's stacked tensor that contains a Megatron tensor, and its number there; None if not
    stacked.
    """
    place = _LAYER.match(name)
    if place is None:
        return None
    for row in table():
        if row.stacked is not None and (match := _numbered(row.megatron).fullmatch(_ANY + name[place.end() :])):
            return place[0] + named(row.stacked, 0).removeprefix(_ANY), int(match["e"])
    return None


@lru_cache
def _numbered(template: str) -> re.Pattern[str]:
    """Pattern of a template's names, with the numbers as groups i and e."""
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d{1,9})", re.escape(template)))


def to_parts(
    parent: Parent, member: Subnet, held: Iterable[Tensor], state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Split Megatron tensors that megatron-core's checkpoints store in parts, so that each part can be resharded."""
    out = dict(state)
    for t in held:
        if t.row.parts:
            pieces = out.pop(t.megatron).split(part_sizes(parent, t.row, 0, member, t.layer))
            out |= zip(parts_of(t.megatron), pieces, strict=True)
    return out


def whole_sizes(stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Convert a checkpoint's sizes to the model's names: parts are concatenated, stacks are split."""
    out: dict[str, tuple[int, ...]] = {}
    for name, size in stored.items():
        if size and all(size) and size[0] <= _MOST and (each := _stack(name)) is not None:
            out |= {named(*each, e): size[1:] for e in range(size[0])}
            continue
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


def _stack(name: str) -> tuple[str, int] | None:
    """Template of the Megatron names of all that a checkpoint's tensor holds, and their layer; None: it is one."""
    for row in table():
        if row.stacked is not None and (match := _numbered(row.stacked).fullmatch(name)):
            return row.megatron, int(match["i"])
    return None


def extra_states(tensors: Iterable[Tensor]) -> list[tuple[str, int]]:
    """Names of a checkpoint's (empty) `_extra_state` objects, and the number of objects per name."""
    out: list[tuple[str, int]] = []
    for t in tensors:
        if t.number:  # the first of several counts all
            continue
        place = _LAYER.match(t.megatron)
        count = 1 if t.row.each is None or t.layer is None else t.layer.widths[t.row.each]
        modules = (module.replace(MEGATRON_LAYER, place[0] if place else "") for module in t.row.extra)
        out += [(f"{module}._extra_state", count) for module in modules]
    return out


def _checked(t: Tensor, state: Mapping[str, Any]) -> torch.Tensor:
    if t.hf not in state:
        raise ElasticError(f"tensors: {t.hf} is missing")
    value = state[t.hf]
    # a mapped file stays unread until it is written
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    else:
        with inside(t.hf):
            value = Unread.of(value, t.hf).torch(copy=False)
    if tuple(value.shape) != t.shape:
        raise bad(f"tensors.{t.hf}", tuple(value.shape), f"this member has {t.shape}")
    return value
