# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing tensors to their places in files, whatever the format of these files.

Tensors are taken in the order in which they lie in the source, a megabyte at a time. So a source larger than memory is
read once, from front to back, however many files are written from it. Some threads read, cut and write, each another
tensor.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from nemo_elastic.formats.checksums import crc32
from nemo_elastic.formats.dtypes import word
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.io.outputs import check_room

__all__ = ["Place", "Progress", "write_places"]

#: Called with (bytes written, bytes in all).
Progress = Callable[[int, int], None]

#: threads, each with another tensor: small tensors read one at a time leave the disk idle
THREADS = 4
#: bytes of small tensors that a thread takes together
GROUP_BYTES = 2**22
#: bytes of a file that may wait in the system's cache to be written to the disk
CACHED_BYTES = 2**28


@dataclass(frozen=True)
class Place:
    """Where a tensor goes.

    Attributes:
        name: of the tensor, for errors.
        tensor: what is written.
        file: existing file.
        start: first byte there.
    """

    name: str
    tensor: Tensor
    file: Path
    start: int


def write_places(places: Sequence[Place], progress: Progress | None = None) -> list[int]:
    """Write tensors to their places.

    Args:
        places: no two overlap; all files are on one disk, which must have room for them.
        progress: called after every piece, by one thread at a time.

    Returns:
        The CRC-32 of each place's bytes.
    """
    total = sum(place.tensor.nbytes for place in places)
    if places:
        check_room(places[0].file.parent, total)
    # Cuts of one tensor come together, so that it is read once; tensors that lie in no file keep their order.
    first = {id(place.tensor.root): i for i, place in reversed([*enumerate(places)])}

    def order(place: Place) -> tuple[str, int]:
        extent = place.tensor.extent
        return (str(extent.path), extent.start) if extent else ("", first[id(place.tensor.root)])

    ordered = sorted(places, key=order)
    with ExitStack() as stack:
        files = _Files(ordered, total, progress, stack)
        pool = stack.enter_context(ThreadPoolExecutor(THREADS, "weights"))
        stack.callback(pool.shutdown, cancel_futures=True)  # after an error or Ctrl-C
        written = [pool.submit(_write, group, files) for group in _groups(ordered)]
        sums = [checksum for future in written for checksum in future.result()]
    by_place = {id(place): checksum for place, checksum in zip(ordered, sums, strict=True)}
    return [by_place[id(place)] for place in places]


def _groups(places: Sequence[Place]) -> list[list[Place]]:
    """Tensors that one thread writes: several small ones, and all with the same source."""
    groups: list[list[Place]] = []
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


def _write(places: Sequence[Place], files: _Files) -> list[int]:
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

    def __init__(self, places: Sequence[Place], total: int, progress: Progress | None, stack: ExitStack) -> None:
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
