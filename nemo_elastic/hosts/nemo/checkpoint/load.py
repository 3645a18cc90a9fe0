# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Distributed checkpoints of NeMo, read into a module; `formats.megatron` reads them without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.megatron.harmless import check_harmless
from nemo_elastic.formats.megatron.stored import weights_folder


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
