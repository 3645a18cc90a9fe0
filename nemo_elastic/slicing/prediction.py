# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing a member whose multi-token prediction (MTP) layers were trained; its other tensors are copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.hf.writing import Progress, write_checkpoints
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.io.outputs import atomic_dir

from .lineage import MTP_TRAINED, lineage_of
from .slicer import MEMBER, describe_member

__all__ = ["write_trained_prediction"]


def write_trained_prediction(
    source: Checkpoint,
    out: str | Path,
    state: Mapping[str, Any],
    how: Mapping[str, Any],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a member or a plain model with other MTP layers.

    Args:
        source: opened; its other tensors stay, byte for byte.
        out: the folder to write, whole or not at all.
        state: torch tensors of MTP layers by name; they get the dtypes that the source has them in.
        how: they were trained, for the member's provenance.
        force: replace an existing `out`.
        progress: called with (bytes written, bytes in all).
    """
    trained = {name: Tensor.of(value, name).cast(source.tensors[name].dtype, name) for name, value in state.items()}
    origin = replace(source.origin, provenance=dict(source.origin.provenance) | {MTP_TRAINED: dict(how)})
    model = replace(source, tensors={**source.tensors, **trained}, origin=origin)
    with atomic_dir(out, force, [source.folder], kind=MEMBER) as folder:
        describe_member(folder, model, lineage_of(source.companions, source.config))
        write_checkpoints({folder: model}, progress=progress)
