# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a distributed checkpoint holds, read as tensors: the model's with HF names, router and found members."""

from __future__ import annotations

from pathlib import Path

import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.formats.adapter import from_megatron, from_parts, missing, parts_of, stacked_of

from .stored import PREFIX, Stored

__all__ = ["ELASTIC", "dtype_of", "plain_tensors", "read_checkpoint", "read_elastic", "read_tensor"]

#: what stands before the names of router and members
ELASTIC = "elastic."


def plain_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Every model tensor of a distributed checkpoint, whole, without a process group (optimizer state is left out)."""
    stored = Stored(path)
    return {PREFIX + name: value for name, value in zip(stored.sizes, stored.read(*stored.sizes), strict=True)}


def read_checkpoint(path: str | Path, parent: Parent) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Read a NeMo checkpoint of `parent`'s shape on any machine, whatever its tensor-parallel layout was.

    Returns:
        Weights with HF names, and what lies under `elastic.` (router, found members).
    """
    plain = {name.removeprefix(PREFIX): value for name, value in plain_tensors(path).items()}
    elastic = {name.removeprefix(ELASTIC): value for name, value in plain.items() if name.startswith(ELASTIC)}
    return from_megatron(parent, parent.full, from_parts(parent, parent.full, plain)), elastic


def read_elastic(stored: Stored) -> dict[str, torch.Tensor]:
    """What a checkpoint holds under `elastic.`: router, found members."""
    names = [name for name in stored.sizes if name.startswith(ELASTIC)]
    return {n.removeprefix(ELASTIC): value for n, value in zip(names, stored.read(*names), strict=True)}


def read_tensor(stored: Stored, name: str) -> torch.Tensor:
    """Read a Megatron tensor whole; one that is stored in parts is put together, of one among many no other is read.

    Raises:
        ElasticError: it is missing, or its file is broken.
    """
    held = _stack(stored, name)
    if held is not None:
        return stored.read_one(*held)
    parts = (name,) if name in stored.sizes else parts_of(name) or (name,)
    for part in parts:
        if part not in stored.sizes:
            raise missing(part)
    value, *others = stored.read(*parts)
    return torch.cat([value, *others]) if others else value


def dtype_of(stored: Stored, name: str) -> torch.dtype:
    """Dtype of a Megatron tensor that is there."""
    held = _stack(stored, name)
    return stored.dtypes[held[0] if held is not None else name if name in stored.dtypes else parts_of(name)[0]]


def _stack(stored: Stored, name: str) -> tuple[str, int] | None:
    """Where the checkpoint holds a tensor as one of many."""
    held = None if name in stored.sizes else stacked_of(name)
    return held if held is not None and held[1] < (*stored.sizes.get(held[0], ()), 0)[0] else None
