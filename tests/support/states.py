# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whole Megatron tensors, in memory or in a checkpoint, as a Hugging Face folder has them; no context is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import megatron_tensors, tensors
from nemo_elastic.formats.adapter import apart, stacked_of, to_parts
from nemo_elastic.formats.megatron.stored import Stored


def from_megatron(parent: Parent, member: Subnet, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo `to_megatron`."""
    out: dict[str, torch.Tensor] = {}
    for name, together in megatron_tensors(parent, member).items():
        out |= zip((t.hf for t in together), apart(parent, together, state[name]), strict=True)
    return out


def stored_as(parent: Parent, member: Subnet, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Whole Megatron tensors as a checkpoint has them: some in parts, some stacked."""
    out = to_parts(parent, member, tensors(parent, member), state)
    many: dict[str, list[torch.Tensor]] = {}
    for name in list(out):
        if (place := stacked_of(name)) is not None:
            many.setdefault(place[0], []).append(out.pop(name))
    return out | {name: torch.stack(each) for name, each in many.items()}


def read_checkpoint(path: str | Path, parent: Parent) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A checkpoint of `parent`'s shape: its weights by HF name, and what lies under `elastic.`."""
    stored = Stored(path)
    whole = {name: stored.read(name) for name in megatron_tensors(parent, parent.full)}
    return from_megatron(parent, parent.full, whole), stored.elastic()
