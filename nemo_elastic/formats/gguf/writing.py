# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A member as one GGUF file: metadata by the library `gguf`, and where its weights go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_elastic.extras import require
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.places import Place
from nemo_elastic.formats.tokenizer import find_tokenizer

from .metadata import architecture, check, describe
from .tensors import Stored, Zeros, stored
from .tokenizer import add_tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["SUFFIX", "prepare"]

SUFFIX = ".gguf"


def prepare(
    model: Checkpoint, file: Path, *, name: str, license: str | None = None, dtype: str | None = None,
    pre: str | None = None, zeros: Zeros | None = None,
) -> list[Place]:  # fmt: skip
    """Write all of a file but the weights.

    Args:
        model: the member, see `tensors.stored`.
        file: a new file, usually the temporary one of `atomic_file`.
        name: of the model, in its metadata.
        license: id of its licence there.
        dtype, zeros: see `tensors.stored`.
        pre: see `tokenizer.add_tokenizer`.

    Returns:
        Where the weights go, for `write_places`.

    Raises:
        ElasticError: llama.cpp cannot run the member; it has no tokenizer that llama.cpp knows; or its weights are in
            low precision.
    """
    require("gguf")
    from gguf import GGUFWriter, LlamaFileType

    check(model)
    folder = find_tokenizer(model.companions)
    assert folder is not None
    tensors = stored(model, dtype, zeros)
    most = max(tensors, key=lambda each: each.nbytes).type.name
    writer = GGUFWriter(file, architecture(model.subnet))
    writer.add_name(name)
    if license is not None:
        writer.add_license(license)
    writer.add_file_type(LlamaFileType[{"F32": "ALL_F32"}.get(most, f"MOSTLY_{most}")])
    if most == "Q8_0":
        writer.add_quantization_version(2)
    describe(writer, model)
    add_tokenizer(writer, folder, model.config, model.parent.sizes["vocab"], pre)
    return _places(writer, file, tensors)


def _places(writer: GGUFWriter, file: Path, tensors: Sequence[Stored]) -> list[Place]:
    """Write header, metadata and tensor table, extend the file to its final length, and place every tensor."""
    for each in tensors:
        writer.add_tensor_info(each.name, each.shape, np.dtype("f4"), each.nbytes, each.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    at = _aligned(writer, file.stat().st_size)
    writer.close()
    places = []
    for each in tensors:
        start = at
        for part in each.parts:
            places.append(Place(each.name, part, file, start))
            start += part.nbytes
        at = _aligned(writer, start)
    os.truncate(file, at)
    return places


def _aligned(writer: GGUFWriter, at: int) -> int:
    return writer.ggml_pad(at, writer.data_alignment)
