# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of one or several folders, written as safetensors in one pass over the source.

Tensors are taken in the order in which they lie in the source and go to their places in the files, a few megabytes at
a time. So a source larger than memory is read once, from front to back, however many folders are cut from it. Some
threads read, cut and write, each another tensor.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from nemo_elastic.formats.checksums import crc32, hexadecimal
from nemo_elastic.formats.dtypes import ITEMSIZE, word
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.io.outputs import check_room
from nemo_elastic.io.values import integer

__all__ = ["INDEX", "SHARD_BYTES", "SINGLE", "Progress", "plan_shards", "write_weights"]

#: Called with (bytes written, bytes in all).
Progress = Callable[[int, int], None]

SHARD_BYTES = 5 * 10**9  # the hub's own habit
#: threads, each with another tensor: a disk that small ones are asked of one by one waits between them
THREADS = 4
#: bytes of small tensors that a thread takes together
GROUP_BYTES = 2**22
#: bytes of a file that may wait in the system's cache to be written to the disk
CACHED_BYTES = 2**28
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def plan_shards(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Deal tensors out to files of at most `limit` bytes, in the order given; a larger tensor has its own file."""
    shards: list[dict[str, Tensor]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.nbytes > limit:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += tensor.nbytes
    return shards


def write_weights(
    folders: Mapping[Path, Mapping[str, Tensor]], shard_bytes: int = SHARD_BYTES, progress: Progress | None = None
) -> list[dict[str, str]]:
    """Write the weights of some folders: `model.safetensors`, or shards with an index.

    Args:
        folders: Existing folder -> its tensors by name, in storage order. Shards follow that order.
        shard_bytes: Largest file of weights; a tensor that is larger has a file of its own.
        progress: Called after every piece, by one thread at a time.

    Returns:
        For each folder, tensor name -> CRC-32 of its bytes.

    Raises:
        ElasticError: The disk has not enough room (nothing was written then), or a source changed while it was read.
    """
    shard_bytes = integer("shard_bytes", shard_bytes, 1, "a number of bytes above 0")
    total = sum(tensor.nbytes for tensors in folders.values() for tensor in tensors.values())
    check_room(next(iter(folders)), total)
    places = [place for folder, tensors in folders.items() for place in _plan(folder, tensors, shard_bytes)]
    # Sorting keeps the order among tensors that lie nowhere, and brings those together that are cut from the same.
    places.sort(key=lambda p: (str(p.tensor.extent.path), p.tensor.extent.start) if p.tensor.extent else ("", 0))
    with ExitStack() as stack:
        files = _Files(places, total, progress, stack)
        pool = stack.enter_context(ThreadPoolExecutor(THREADS, "weights"))
        stack.callback(pool.shutdown, cancel_futures=True)  # after an error or Ctrl-C
        written = [pool.submit(_write, group, files) for group in _groups(places)]
        sums = [checksum for future in written for checksum in future.result()]
    by_folder: dict[Path, dict[str, str]] = {folder: {} for folder in folders}
    for place, checksum in zip(places, sums, strict=True):
        by_folder[place.folder][place.name] = hexadecimal(checksum)
    return [dict(sorted(own.items())) for own in by_folder.values()]


@dataclass(frozen=True)
class _Place:
    """Where a tensor goes."""

    folder: Path
    name: str
    tensor: Tensor
    file: Path
    start: int


def _plan(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> Iterator[_Place]:
    """Write the headers and the index, and give every tensor its place."""
    shards = plan_shards(tensors, shard_bytes)
    names = [SINGLE]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        weight_map = {own: name for name, shard in zip(names, shards, strict=True) for own in shard}
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        starts = _write_header(folder / name, shard)
        yield from (_Place(folder, own, tensor, folder / name, starts[own]) for own, tensor in shard.items())


def _write_header(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Write the beginning of one file; give the first byte of each tensor.

    The layout depends on the names, dtypes and shapes alone, so that equal tensors make equal files: larger elements
    first (that keeps every tensor aligned), then by name; the header is padded to eight bytes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, t in sorted(tensors.items(), key=lambda item: (-ITEMSIZE[item[1].dtype], item[0])):
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return {name: 8 + len(text) + header[name]["data_offsets"][0] for name in tensors}


def _groups(places: Sequence[_Place]) -> list[list[_Place]]:
    """Tensors that one thread writes: some small ones, and all that are made of the same."""
    groups: list[list[_Place]] = []
    held, last = 0, None
    for place in places:
        count, source = place.tensor.nbytes, place.tensor.root
        again = source is not None and source is last
        if not groups or (held + count > GROUP_BYTES and not again):
            groups.append([])
            held = 0
        groups[-1].append(place)
        held, last = held + count, source
    return groups


def _write(places: Sequence[_Place], files: _Files) -> list[int]:
    """Write some tensors one after the other; gives the CRC-32 of each."""
    sums = []
    for i, place in enumerate(places):
        tensor, at, checksum = place.tensor, 0, 0
        for piece in tensor.pieces():
            if piece.dtype != word(tensor.dtype) or at + piece.nbytes > tensor.nbytes:
                raise RuntimeError(f"{place.name}: a piece that does not fit {tensor.dtype} {tensor.shape}")
            data = piece.reshape(-1).view(np.uint8).data
            checksum = crc32(data, checksum)
            files.write(place.file, data, place.start + at)
            at += piece.nbytes
        if at < tensor.nbytes:
            raise RuntimeError(f"{place.name}: {tensor.nbytes - at} bytes short of its shape {tensor.shape}")
        if tensor.extent is not None and (i + 1 == len(places) or places[i + 1].tensor.root is not tensor.root):
            tensor.extent.evict()
        sums.append(checksum)
    return sums


class _Files:
    """The files that are written to, by several threads at any place."""

    def __init__(self, places: Sequence[_Place], total: int, progress: Progress | None, stack: ExitStack) -> None:
        self._left: Counter[Path] = Counter()
        for place in places:
            self._left[place.file] += place.tensor.nbytes
        self._files = {path: stack.enter_context(path.open("r+b", buffering=0)) for path in self._left}
        self._cached: Counter[Path] = Counter()
        self._lock, self._written, self._total, self._progress = Lock(), 0, total, progress

    def write(self, path: Path, data: memoryview, start: int) -> None:
        """Write bytes to their place, and what has gathered of the file to the disk."""
        number, count = self._files[path].fileno(), len(data)
        while data:  # the system may take a part: at most 2 GB on Linux, less when the disk fills up
            done = os.pwrite(number, data, start)
            data, start = data[done:], start + done
        with self._lock:
            self._written += count
            self._left[path] -= count
            self._cached[path] += count
            full = count > 0 and (self._cached[path] > CACHED_BYTES or not self._left[path])
            if full:
                self._cached[path] = 0
            if count and self._progress is not None:
                self._progress(self._written, self._total)
        if full:
            _to_disk(number)


def _to_disk(number: int) -> None:
    """Put what a file has by now on the disk, and let the system drop its cache of it.

    Nothing reads it soon, and the pages serve for what comes next: fresh ones cost more time than the disk.
    """
    os.fsync(number)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
