# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Distributed checkpoints of NeMo: read into a module, read as plain tensors with HF names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.family import Parent
from nemo_elastic.layout import tensors


def weights_folder(path: str | Path) -> Path:
    """The folder of sharded weights inside a NeMo checkpoint.

    Raises:
        ElasticError: there is no distributed checkpoint at `path`.
    """
    for candidate in (Path(path) / "weights", Path(path)):
        if (candidate / "metadata.json").is_file():
            return candidate
    raise bad("checkpoint", str(path), "a NeMo checkpoint folder (weights/metadata.json)")


def load_model_weights(core: Any, path: str | Path | None) -> None:
    """Load a NeMo checkpoint into a megatron-core model in place; the elastic submodule stays as it is."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.validation import StrictHandling

    assert path is not None
    wanted = {k: v for k, v in core.sharded_state_dict(prefix="module.").items() if ".elastic." not in k}
    loaded = dist_checkpointing.load(wanted, str(weights_folder(path)), strict=StrictHandling.RAISE_UNEXPECTED)
    state = {k.removeprefix("module."): v for k, v in loaded.items() if k.startswith("module.")}
    missing, unexpected = core.load_state_dict(state, strict=False)
    wrong = [k for k in [*missing, *unexpected] if "_extra_state" not in k and not k.startswith("elastic.")]
    if wrong:
        raise ElasticError(f"checkpoint: {path}: parameters do not match the model: {', '.join(wrong[:5])}")


def plain_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Every model tensor of a distributed checkpoint, whole, without a process group (optimizer state is left out).

    A NeMo checkpoint is trusted input: its metadata is a pickle.
    """
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    reader = FileSystemReader(str(weights_folder(path)))
    found = {
        k: torch.empty(m.size, dtype=m.properties.dtype)
        for k, m in reader.read_metadata().state_dict_metadata.items()
        if isinstance(m, TensorStorageMetadata) and k.startswith("module.")
    }
    load(found, storage_reader=reader, no_dist=True)
    return found


def read_checkpoint(path: str | Path, parent: Parent) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Read a NeMo checkpoint of `parent`'s shape on any machine, whatever its tensor-parallel layout was.

    Returns:
        Weights with HF names, and what lies under `elastic.` (router, found members).
    """
    plain = {k.removeprefix("module."): v for k, v in plain_tensors(path).items()}
    elastic = {k.removeprefix("elastic."): v for k, v in plain.items() if k.startswith("elastic.")}
    return hf_from_megatron(parent, join_parts(parent, plain)), elastic


#: megatron-core saves these in parts, so that they can be resharded: suffixes in storage order
PARTS = {
    "in_proj.weight": ("z", "x", "B", "C", "dt"),
    "conv1d.weight": ("x", "B", "C"),
    "conv1d.bias": ("x", "B", "C"),
}


def join_parts(parent: Parent, plain: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo the split of Mamba's fused tensors in a distributed checkpoint."""
    out = {k: v for k, v in plain.items() if k.rsplit(".", 1)[-1] not in ("z", "x", "B", "C", "dt")}
    for tensor in tensors(parent, parent.full):
        for end, parts in PARTS.items():
            if tensor.megatron.endswith(end) and tensor.megatron not in out:
                out[tensor.megatron] = torch.cat([plain[f"{tensor.megatron}.{p}"] for p in parts])
    return out


def hf_from_megatron(parent: Parent, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename whole Megatron tensors to HF names; the fused query-key-value projection falls apart in three."""
    out = {}
    for t in tensors(parent, parent.full):
        if t.megatron not in state:
            raise ElasticError(f"checkpoint: tensor {t.megatron} is missing")
        value = state[t.megatron]
        if t.row.name in ("attention.q", "attention.k", "attention.v"):
            value = _split_qkv(parent, value)[t.row.name[-1]]
        if tuple(value.shape) != t.shape:
            raise bad(f"checkpoint.{t.megatron}", tuple(value.shape), f"the shape {t.shape} of the model")
        out[t.hf] = value
    return out


def _split_qkv(parent: Parent, fused: torch.Tensor) -> dict[str, torch.Tensor]:
    d = parent.attention_head_dim
    grouped = fused.unflatten(0, (parent.kv_heads, -1))
    per = grouped.shape[1] - 2 * d
    q, k, v = grouped.split([per, d, d], 1)
    return {"q": q.flatten(0, 1), "k": k.flatten(0, 1), "v": v.flatten(0, 1)}
