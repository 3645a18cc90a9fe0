# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Folders in low precision, and what somebody may do to their tensors and their JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.formats.checksums import CHECKSUMS_FILE
from nemo_elastic.formats.hf.reading import open_shard
from nemo_elastic.formats.hf.writing import SINGLE
from nemo_elastic.formats.schemes import scheme_of
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.quantize.writing import quantize_folder

#: inputs of every product, as large as they may be
RANGES: Any = type("Ranges", (dict,), {"get": lambda self, at: 3.0})()
Tensors = dict[str, Tensor]


def low(source: Path, out: Path, precision: str, layout: str, scaled: bool = True) -> Path:
    """The folder in low precision, with scales of inputs or without."""
    quantize_folder(source, out, scheme_of(precision, layout), ranges=RANGES if scaled else None)
    return out


def with_tensors(folder: Path, out: Path, change: Callable[[Tensors], object]) -> Path:
    """A copy of a folder whose tensors somebody has changed, and its checksums with them."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    (out / CHECKSUMS_FILE).unlink(missing_ok=True)
    tensors = dict(open_shard(folder / SINGLE))
    change(tensors)
    put_tensors(out / SINGLE, tensors)
    return out


def put_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    header, data = {}, bytearray()
    for name, raw in tensors.items():
        start = len(data)
        data += np.ascontiguousarray(raw.words).tobytes()
        header[name] = {"dtype": raw.dtype, "shape": list(raw.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.unlink(missing_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def with_json(folder: Path, out: Path, file: str, change: Callable[[Any], object]) -> Path:
    """A copy of a folder with a JSON file changed in place."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    (out / CHECKSUMS_FILE).unlink(missing_ok=True)
    value = json.loads((out / file).read_text())
    change(value)
    (out / file).write_text(json.dumps(value))
    return out


def floats(*values: float, shape: tuple[int, ...] | None = None) -> Tensor:
    """fp32 numbers as a tensor: of one element, without dimensions."""
    return Tensor.of(np.asarray(values, "<f4").reshape(shape if shape is not None else ()))


def word(raw: Tensor, at: tuple[int, ...], value: int) -> Tensor:
    """The same with another word in one place."""
    words = raw.words.copy()
    words[at] = value
    return Tensor.of_words(raw.dtype, words)
