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
from nemo_elastic.layout import Tensor, tensors

from .harmless import check_harmless
from .inferred import parts_of
from .stored import PREFIX, Stored, weights_folder

#: what stands before the names of router and members
ELASTIC = "elastic."


def load_model_weights(core: Any, path: str | Path | None) -> None:
    """Load a NeMo checkpoint into a megatron-core model in place; the elastic submodule stays as it is.

    Raises:
        ElasticError: it is damaged, may run something, or is of another model.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.validation import StrictHandling

    assert path is not None
    check_harmless(path, only_weights=True)
    wanted = {k: v for k, v in core.sharded_state_dict(prefix="module.").items() if ".elastic." not in k}
    loaded = dist_checkpointing.load(wanted, str(weights_folder(path)), strict=StrictHandling.RAISE_UNEXPECTED)
    state = {k.removeprefix("module."): v for k, v in loaded.items() if k.startswith("module.")}
    missing, unexpected = core.load_state_dict(state, strict=False)
    wrong = [k for k in [*missing, *unexpected] if "_extra_state" not in k and not k.startswith("elastic.")]
    if wrong:
        raise ElasticError(f"checkpoint: {path}: parameters do not match the model: {', '.join(wrong[:5])}")


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
    return hf_from_megatron(parent, join_parts(parent, plain)), elastic


def read_elastic(stored: Stored) -> dict[str, torch.Tensor]:
    """What a checkpoint holds under `elastic.`: router, found members."""
    names = [name for name in stored.sizes if name.startswith(ELASTIC)]
    return {n.removeprefix(ELASTIC): value for n, value in zip(names, stored.read(*names), strict=True)}


def read_tensor(stored: Stored, parent: Parent, tensor: Tensor, name: str) -> torch.Tensor:
    """Read one tensor of a model as its HF folder has it.

    Args:
        stored: the checkpoint.
        parent: shape that the model was cut from.
        tensor: the tensor.
        name: of the Megatron tensor that holds it. One that is stored in parts is put together, and the fused
            query-key-value projection falls apart in three.

    Raises:
        ElasticError: it is missing, or has another shape.
    """
    parts = (name,) if name in stored.sizes else parts_of(name) or (name,)
    for part in parts:
        if part not in stored.sizes:
            raise ElasticError(f"checkpoint: tensor {part} is missing")
    value, *others = stored.read(*parts)
    return _checked(parent, tensor, torch.cat([value, *others]) if others else value)


def join_parts(parent: Parent, plain: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo the split of Mamba's fused tensors in a distributed checkpoint."""
    out = dict(plain)
    for t in tensors(parent, parent.full):
        parts = parts_of(t.megatron)
        if parts and t.megatron not in out:
            out[t.megatron] = torch.cat([_taken(out, part) for part in parts])
    return out


def _taken(plain: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in plain:
        raise ElasticError(f"checkpoint: tensor {name} is missing")
    return plain.pop(name)


def hf_from_megatron(parent: Parent, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename whole Megatron tensors to HF names; the fused query-key-value projection falls apart in three."""
    out = {}
    for t in tensors(parent, parent.full):
        if t.megatron not in state:
            raise ElasticError(f"checkpoint: tensor {t.megatron} is missing")
        out[t.hf] = _checked(parent, t, state[t.megatron])
    return out


def _checked(parent: Parent, tensor: Tensor, value: torch.Tensor) -> torch.Tensor:
    """A whole Megatron tensor as the HF tensor that it is or holds."""
    kind, _, which = tensor.row.name.partition(".")
    if kind == "attention" and which in ("q", "k", "v"):
        value = _split_qkv(parent, value)[which]
    if tuple(value.shape) != tensor.shape:
        raise bad(f"checkpoint.{tensor.megatron}", tuple(value.shape), f"the shape {tensor.shape} of the model")
    return value


def _split_qkv(parent: Parent, fused: torch.Tensor) -> dict[str, torch.Tensor]:
    d = parent.attention_head_dim
    grouped = fused.unflatten(0, (parent.kv_heads, -1))
    per = grouped.shape[1] - 2 * d
    q, k, v = grouped.split([per, d, d], 1)
    return {"q": q.flatten(0, 1), "k": k.flatten(0, 1), "v": v.flatten(0, 1)}
