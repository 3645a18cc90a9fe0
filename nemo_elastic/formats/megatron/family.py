# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The family that an elastic checkpoint holds: members, budgets, drop order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.codes import decode
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import bad

__all__ = ["checkpoint_members", "elastic_family"]


def checkpoint_members(
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
        elastic: what it holds under `elastic.` (`read.read_elastic`).
        block: the elastic block of the run.
        where: the checkpoint, for errors.
        ranking_digest, provenance: recorded in elastic.json.

    Raises:
        ElasticError: it has no members, or those of another block or parent.
    """
    config = block if isinstance(block, ElasticConfig) else ElasticConfig.from_dict(dict(block))
    shape = config.parent_shape(parent)
    members = checkpoint_members(shape, elastic, config, where)
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
