# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A trained run → family folder: weights and members read from its NeMo checkpoint, written as HF + elastic.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.config import ElasticConfig
from nemo_elastic.errors import bad
from nemo_elastic.export.family_folder import write_family
from nemo_elastic.family import Parent, Subnet
from nemo_elastic.manifest import Family

from .checkpoint import read_checkpoint
from .members import decode


def members_of(
    parent: Parent, elastic: Mapping[str, torch.Tensor], config: ElasticConfig, where: str
) -> dict[str, Subnet]:
    """Members that an elastic checkpoint carries, by budget name.

    Raises:
        ElasticError: the checkpoint is of a stock model, of other budgets or another parent, or its shapes are not
            found yet.
    """
    codes = elastic.get("codes")
    if codes is None or not codes.any():
        raise bad("checkpoint", where, "an elastic checkpoint with members")
    if codes.shape[1:] != (1 + 3 * parent.num_layers,):
        raise bad("checkpoint.elastic.codes", tuple(codes.shape), f"members of {parent.num_layers} layers")
    if len(codes) != len(config.budgets):
        raise bad("elastic.budgets", len(config.budgets), f"as many as the checkpoint's {len(codes)} members")
    return {b.name: decode(parent, row) for b, row in zip(config.budgets, codes.tolist(), strict=True)}


def elastic_family(
    parent: Parent,
    elastic: Mapping[str, torch.Tensor],
    block: Mapping[str, Any] | ElasticConfig,
    where: str,
    *,
    ranking_digest: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Family:
    """The family that an elastic checkpoint holds.

    Args:
        parent: shape of its weights.
        elastic: what it holds under `elastic.` (`checkpoint.read_elastic`).
        block: the elastic block of the run.
        where: the checkpoint, for errors.
        ranking_digest, provenance: recorded in elastic.json.

    Raises:
        ElasticError: it has no members, or those of another block or parent.
    """
    config = block if isinstance(block, ElasticConfig) else ElasticConfig.from_dict(dict(block))
    shape = config.parent_shape(parent)
    members = members_of(shape, elastic, config, where)
    order = next((elastic[name].tolist() for name in ("router.drop_order", "drop_order") if name in elastic), None)
    return Family.of(
        shape,
        members,
        axes=config.resolve_axes(shape),
        budgets=config.budgets,
        ranking_digest=ranking_digest,
        provenance=provenance,
        drop_order=order,
    )


def export_family(
    checkpoint: str | Path,
    out: str | Path,
    parent: Parent,
    config: ElasticConfig,
    *,
    tokenizer_dir: str | Path | None = None,
    ranking_digest: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Family:
    """Write the family folder of an elastic NeMo checkpoint, of a shape and a block that are known.

    `nemo-elastic convert` does it with what the checkpoint says of itself.

    Args:
        checkpoint: folder that training left.
        out: folder to write.
        parent: shape of the parent.
        config: the elastic block of the run.
        tokenizer_dir: HF tokenizer to copy.
        ranking_digest, provenance: recorded in elastic.json.
        base: HF config settings without a shape (token ids, context length).
        force: replace an existing folder.
    """
    tensors, elastic = read_checkpoint(checkpoint, parent)
    family = elastic_family(
        parent, elastic, config, str(checkpoint), ranking_digest=ranking_digest, provenance=provenance
    )
    write_family(out, family.parent, tensors, family, tokenizer_dir, base=base, force=force)
    return family
