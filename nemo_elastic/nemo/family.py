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
        ElasticError: the checkpoint is of a stock model, of other budgets, or its shapes are not found yet.
    """
    codes = elastic.get("codes")
    if codes is None or not codes.any():
        raise bad("checkpoint", where, "an elastic checkpoint with members")
    if len(codes) != len(config.budgets):
        raise bad("elastic.budgets", len(config.budgets), f"as many as the checkpoint's {len(codes)} members")
    return {b.name: decode(parent, row) for b, row in zip(config.budgets, codes.tolist(), strict=True)}


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
    """Write the family folder of an elastic NeMo checkpoint.

    Args:
        checkpoint: folder that training left (trusted input: its metadata is a pickle).
        out: folder to write.
        parent: shape of the parent, with the FFN stripes of the run.
        config: the elastic block of the run.
        tokenizer_dir: HF tokenizer to copy.
        ranking_digest, provenance: recorded in elastic.json.
        base: HF config settings without a shape (token ids, context length).
        force: replace an existing folder.
    """
    tensors, elastic = read_checkpoint(checkpoint, parent)
    members = members_of(parent, elastic, config, str(checkpoint))
    family = Family.of(
        parent,
        members,
        axes=config.resolve_axes(parent),
        budgets=config.budgets,
        ranking_digest=ranking_digest,
        provenance=provenance,
    )
    write_family(out, parent, tensors, family, tokenizer_dir, base=base, force=force)
    return family
