# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Distributed checkpoints, NeMo's or Megatron-Bridge's, read into a module; `formats.megatron` reads them without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.harmless import check_harmless
from nemo_elastic.formats.megatron.metadata import Metadata, model_prefix, read_metadata
from nemo_elastic.formats.megatron.stored import weights_folder

from .compat import content


def check_rows(core: Any, path: str | Path) -> None:
    """Raise where a checkpoint, of which a host is going to load all, has another vocabulary than the model.

    megatron-core would cut it, or fill it up with zeros: of vocabularies alone it lets the shapes differ.
    """
    metadata = read_metadata(weights_folder(path))
    _check_rows(content(core, model_prefix(metadata.tensors)), metadata, path)


def _check_rows(wanted: Mapping[str, Any], metadata: Metadata, path: str | Path) -> None:
    for tensor in wanted.values():
        found = metadata.tensors.get(getattr(tensor, "key", ""))
        if found is None or not getattr(tensor, "allow_shape_mismatch", False):
            continue
        rows, has = tensor.global_shape[0], found.size[0]
        if rows != has:
            raise ElasticError(
                f"checkpoint: {path}: its vocabulary has {has} rows, the model {rows}; neither is cut or filled up"
            )


def load_model_weights(core: Any, path: str | Path | None) -> None:
    """Load a checkpoint into a megatron-core model in place; the elastic submodule stays as it is.

    Raises:
        ElasticError: it is damaged, may run something, or is of another model.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.validation import StrictHandling

    assert path is not None
    metadata = check_harmless(path, only_weights=True)
    prefix = model_prefix(metadata.tensors)
    wanted = {k: v for k, v in content(core, prefix).items() if not k.startswith(f"{prefix}elastic.")}
    _check_rows(wanted, metadata, path)
    loaded = dist_checkpointing.load(wanted, str(weights_folder(path)), strict=StrictHandling.RAISE_UNEXPECTED)
    state = {k.removeprefix(prefix): v for k, v in loaded.items() if k in wanted}
    missing, unexpected = core.load_state_dict(state, strict=False)
    wrong = [k for k in [*missing, *unexpected] if "_extra_state" not in k and not k.startswith("elastic.")]
    if wrong:
        raise ElasticError(f"checkpoint: {path}: parameters do not match the model: {', '.join(wrong[:5])}")
