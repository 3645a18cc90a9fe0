# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whole tensors of runs' last checkpoints, whatever layout wrote them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.distributed.checkpoint import FileSystemReader, load
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

#: the optimizer's average of gradients
AVERAGE = "optimizer.state.exp_avg.module."
#: gradients below this share of the largest are rounding; the router's are compared among themselves, being smaller
FLOOR = 1e-3


def stored(run: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a run's last checkpoint whose names start so, without that."""
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    return held(last_checkpoint(run), prefix)


def held(checkpoint: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint whose names start so, without that."""
    reader = FileSystemReader(checkpoint / "weights")
    wanted = {
        name: torch.empty(tuple(meta.size), dtype=meta.properties.dtype)
        for name, meta in reader.read_metadata().state_dict_metadata.items()
        if isinstance(meta, TensorStorageMetadata) and name.startswith(prefix)
    }
    load(wanted, storage_reader=reader, no_dist=True)
    for name in wanted:
        if name.endswith("elastic.losses"):  # bits of float64
            wanted[name] = wanted[name].view(torch.float64).nan_to_num(0.0)
    return {name.removeprefix(prefix): value for name, value in wanted.items()}


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Weights, router and members."""
    return stored(run, "module.")


def gradients(run: Path) -> dict[str, torch.Tensor]:
    """Average of the gradients, as the optimizer got them."""
    return stored(run, AVERAGE)


def deviation(actual: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], relative: bool = False) -> float:
    """Largest difference of any value; relative to the largest of its tensor, or to a small part of that of all.

    Raises:
        AssertionError: other names or shapes.
    """
    assert actual.keys() == wanted.keys(), sorted(actual.keys() ^ wanted.keys())
    sizes = {name: float(value.abs().max()) if value.numel() else 0.0 for name, value in wanted.items()}
    largest = {
        kind: max((s for n, s in sizes.items() if ("router" in n) == kind), default=0.0) for kind in (False, True)
    }
    worst = 0.0
    for name, value in wanted.items():
        scale = max(sizes[name], FLOOR * largest["router" in name]) if relative else 1.0
        worst = max(worst, float((actual[name].double() - value.double()).abs().max()) / scale)
    return worst


def digests(run: Path) -> dict[str, str]:
    """Hash of every tensor of a run's last checkpoint: weights, router, members, optimizer."""
    return {
        name: hashlib.sha256(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, value in stored(run).items()
    }
