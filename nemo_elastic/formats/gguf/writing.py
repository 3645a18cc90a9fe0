# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing a member as one GGUF file: metadata by the library `gguf`, weights streamed as in every cut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_elastic.errors import ElasticError
from nemo_elastic.extras import require
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.places import Place, Progress, write_places
from nemo_elastic.formats.tokenizer import find_tokenizer
from nemo_elastic.io.outputs import check_room

from .metadata import architecture, describe
from .tensors import DTYPES, Stored, stored
from .tokenizer import add_tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["DTYPES", "SUFFIX", "write"]

SUFFIX = ".gguf"


def write(
    model: Checkpoint, file: Path, *, name: str | None = None, license: str | None = None, dtype: str | None = None,
    pre: str | None = None, progress: Progress | None = None,
) -> None:  # fmt: skip
    """Write a member.

    Args:
        model: what is written, see `tensors.stored`.
        file: a new file, usually the temporary one of `atomic_file`.
        name: of the model, in its metadata.
        license: id of its licence there.
        dtype: see `tensors.stored`.
        pre: see `tokenizer.add_tokenizer`.
        progress: called after every piece.

    Raises:
        ElasticError: llama.cpp cannot run the member; it has no tokenizer that llama.cpp knows; or its weights are in
            low precision.
    """
    require("gguf")
    from gguf import GGUFWriter, LlamaFileType

    folder = find_tokenizer(model.companions)
    if folder is None:
        raise ElasticError(f"{model.folder}: has no tokenizer, and a GGUF file holds one")
    tensors = stored(model, dtype)
    most = max(tensors, key=lambda each: each.nbytes).type
    writer = GGUFWriter(file, architecture(model.subnet))
    if name is not None:
        writer.add_name(name)
    if license is not None:
        writer.add_license(license)
    writer.add_file_type(LlamaFileType[{"F32": "ALL_F32"}.get(most, f"MOSTLY_{most}")])
    if most == "Q8_0":
        writer.add_quantization_version(2)
    describe(writer, model)
    add_tokenizer(writer, folder, model.config, model.parent.sizes["vocab"], pre)
    check_room(file.parent, sum(each.nbytes for each in tensors))
    write_places(_places(writer, file, tensors), progress)


def _places(writer: GGUFWriter, file: Path, tensors: Sequence[Stored]) -> list[Place]:
    """Write all but the weights, make the file as long as it will be, and give every tensor its place."""
    for each in tensors:
        writer.add_tensor_info(each.name, each.shape, np.dtype("f4"), each.nbytes, each.ggml)
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
