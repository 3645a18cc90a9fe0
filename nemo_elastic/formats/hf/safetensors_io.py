# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""safetensors files as mapped words, without torch.

Reading maps the file and copies nothing; every header is checked before any of it is believed. `shards` writes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from nemo_elastic.errors import ElasticError, shown
from nemo_elastic.formats.raw import ITEMSIZE, Extent, Handle, Raw, word
from nemo_elastic.io.bounded import check_no_holes, open_regular

__all__ = ["open_shard"]

_HEADER_LIMIT = 100_000_000  # what the safetensors library allows
_MOST_DIMENSIONS = 32  # what numpy 1 allows; no tensor of a model has five
_MOST_ELEMENTS = 2**59  # numpy counts bytes in 63 bits, also where there are none because another dimension is 0


def open_shard(path: Path) -> dict[str, Raw]:
    """Map one file.

    Args:
        path: A `.safetensors` file.

    Returns:
        Its tensors by name, in the order of the file. They are views of the mapped file and read-only.

    Raises:
        ElasticError: The file is missing, mostly holes, or not what its header says, or that contradicts itself.
    """
    try:
        with open_regular(path) as file:
            size = check_no_holes(path, os.fstat(file.fileno()))
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise ElasticError(f"{path}: not a whole safetensors file (its header is cut off)")
            header = _parse(path, file.read(length))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size > 8 + length else None
            handle = Handle(file.fileno())
    except FileNotFoundError:
        raise ElasticError(f"{path}: no such file") from None
    except OSError as exc:
        raise ElasticError(f"{path}: cannot be read ({exc.strerror})") from None
    entries = sorted(_entries(path, header), key=lambda e: (e[3], e[4]))
    at = 0
    for name, _, _, start, stop in entries:
        if start != at:
            what = "overlaps another tensor" if start < at else "leaves a hole before it"
            raise ElasticError(f"{path}: tensor {name!r} {what} (it starts at byte {start}, not {at})")
        at = stop
    if at != size - 8 - length:
        lost = "truncated" if at > size - 8 - length else "longer than its tensors"
        raise ElasticError(f"{path}: {lost} ({size - 8 - length} bytes of data, its header says {at})")
    out = {}
    for name, dtype, shape, start, stop in entries:
        if math.prod(filter(None, shape)) > _MOST_ELEMENTS:
            raise ElasticError(f"{path}: tensor {name!r} has shape {shown(list(shape))}, which no memory can hold")
        if data is None or start == stop:
            out[name] = Raw(dtype, np.empty(shape, word(dtype)))
            continue
        flat = np.frombuffer(data, word(dtype), math.prod(shape), 8 + length + start)
        out[name] = Raw(dtype, flat.reshape(shape), Extent(path, 8 + length + start, 8 + length + stop, data, handle))
    return out


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a name appears twice")
        return dict(pairs)

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as exc:
        raise ElasticError(f"{path}: not a safetensors file (its header is not JSON: {exc})") from None
    if not isinstance(header, dict):
        raise ElasticError(f"{path}: not a safetensors file (its header is no JSON object)")
    header.pop("__metadata__", None)
    return header


def _entries(path: Path, header: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
    def whole(values: Any) -> TypeGuard[list[int]]:
        return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)

    for name, info in header.items():
        fields = info if isinstance(info, dict) else {}
        dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
        if not whole(shape) or not whole(offsets) or len(offsets) != 2:
            raise ElasticError(f"{path}: tensor {name!r} has no valid shape and data_offsets in the header")
        if not isinstance(dtype, str) or dtype not in ITEMSIZE:
            raise ElasticError(f"{path}: tensor {name!r} has dtype {dtype!r}; allowed are {', '.join(ITEMSIZE)}")
        if len(shape) > _MOST_DIMENSIONS:
            raise ElasticError(f"{path}: tensor {name!r} has {len(shape)} dimensions, above {_MOST_DIMENSIONS}")
        start, stop = offsets
        if stop - start != math.prod(shape) * ITEMSIZE[dtype]:
            raise ElasticError(f"{path}: tensor {name!r} has {stop - start} bytes, {dtype} {shape} is another size")
        yield name, dtype, tuple(shape), start, stop
