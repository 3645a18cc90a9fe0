# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whole tensors of a checkpoint that this machine has just written: weights, router, members, optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

#: prefixes of their names
MODEL, ROUTER, MEMBERS, OPTIMIZER = "module.", "module.elastic.router.", "module.elastic.codes", "optimizer."


def held(checkpoint: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors whose names start so, without that, whatever layout wrote them."""
    reader = FileSystemReader(checkpoint / "weights")
    wanted = {
        name: torch.empty(tuple(meta.size), dtype=meta.properties.dtype)
        for name, meta in reader.read_metadata().state_dict_metadata.items()
        if isinstance(meta, TensorStorageMetadata) and name.startswith(prefix)
    }
    load(wanted, storage_reader=reader, no_dist=True)
    return {name.removeprefix(prefix): value for name, value in wanted.items()}


def differing(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that only one has, or whose bytes differ."""
    return sorted(
        name
        for name in found.keys() | wanted.keys()
        if name not in found or name not in wanted or not _same(found[name], wanted[name])
    )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
