# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A trained run → family folder: weights and members read from its NeMo checkpoint, written as HF + elastic.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.megatron.family import elastic_family
from nemo_elastic.formats.megatron.read import read_checkpoint
from nemo_elastic.slicing.family_folder import write_family


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
