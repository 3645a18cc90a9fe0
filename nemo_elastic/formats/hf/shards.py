# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of one or several folders, written as safetensors in one pass over what they come from.

Tensors are taken in the order in which they lie in the source and go to their places in the files, a few megabytes at
a time. So a source larger than memory is read once, from front to back, however many folders are cut from it. Some
threads read and cut, one writes, and one computes checksums.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nemo_elastic.formats.checksums import Checksum, Sums
from nemo_elastic.formats.kept import Converted, Pieces
from nemo_elastic.formats.raw import ITEMSIZE, Extent, Raw, word
from nemo_elastic.io.outputs import check_room
from nemo_elastic.io.values import integer

__all__ = ["INDEX", "SHARD_BYTES", "SINGLE", "NewTensor", "Progress", "plan_shards", "write_weights"]

#: Called with (bytes written, bytes in all).
Progress = Callable[[int, int], None]
T = TypeVar("T")

SHARD_BYTES = 5 * 10**9  # the hub's own habit
#: bytes that go from thread to thread together
BATCH = 2**22
#: threads that read, each another tensor: a disk that small ones are asked of one by one waits between them
READERS = 3
#: batches of each that wait to be written
WAITING = 3
#: bytes of a file that may wait in the system's cache to be written to the disk
CACHED_BYTES = 2**28
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class NewTensor:
    """A tensor that is going to be written.

    Attributes:
        name: its name in the file.
        dtype: name of its dtype.
        shape: its shape.
        chunks: gives its words from first to last, in pieces of any shape. Called once, when its turn comes.
        source: what it is made of; one thread makes all tensors of one source, one after the other.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[np.ndarray]]
    source: Raw | None = None

    @classmethod
    def of(cls, name: str, part: Pieces | Converted) -> NewTensor:
        """What stays of another tensor."""
        return cls(name, part.dtype, part.shape, part, part.raw)

    @property
    def extent(self) -> Extent | None:
        """Where its source lies, if that is in a mapped file."""
        return None if self.source is None else self.source.extent

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


def plan_shards(entries: Sequence[NewTensor], limit: int) -> list[list[NewTensor]]:
    """Deal tensors out to files of at most `limit` bytes, in the order given; a larger tensor has its own file."""
    shards: list[list[NewTensor]] = [[]]
    held = 0
    for entry in entries:
        if shards[-1] and held + entry.nbytes > limit:
            shards.append([])
            held = 0
        shards[-1].append(entry)
        held += entry.nbytes
    return shards


def write_weights(
    folders: Mapping[Path, Sequence[NewTensor]], shard_bytes: int = SHARD_BYTES, progress: Progress | None = None
) -> list[dict[str, Sums]]:
    """Write the weights of some folders: `model.safetensors`, or shards with an index.

    Args:
        folders: Existing folder -> its tensors in storage order. Shards follow that order.
        shard_bytes: Largest file of weights; a tensor that is larger has a file of its own.
        progress: Called after every piece.

    Returns:
        For each folder, tensor name -> CRC-32 of its bytes.

    Raises:
        ElasticError: The disk has not enough room (nothing was written then), or a source is not what its checksums
            say.
    """
    shard_bytes = integer("shard_bytes", shard_bytes, 1, "a number of bytes above 0")
    total = sum(e.nbytes for entries in folders.values() for e in entries)
    check_room(next(iter(folders)), total)
    places = [place for folder, entries in folders.items() for place in _plan(folder, list(entries), shard_bytes)]
    # Sorting keeps the order among tensors that lie nowhere, and brings those together that are cut from the same.
    places.sort(key=lambda p: (str(p.entry.extent.path), p.entry.extent.start) if p.entry.extent else ("", 0))
    left: Counter[Path] = Counter()
    for place in places:
        left[place.file] += place.entry.nbytes
    cached: Counter[Path] = Counter()
    checksums: dict[Path, dict[str, Sums]] = {folder: {} for folder in folders}
    written = 0
    with (
        ThreadPoolExecutor(1, "aside") as aside,
        ThreadPoolExecutor(1, "checksum") as adding,
        closing(_ahead([_batches(_read(group)) for group in _groups(places)])) as reading,
        closing(_Files()) as files,
    ):
        waiting: list[Future[None]] = []
        checksum = Checksum()
        for batch in reading:
            added = adding.submit(_add, batch, checksum, checksums)
            for part in batch:
                path, count = part.place.file, len(part.data)
                files.write(part)
                written += count
                left[path] -= count
                cached[path] += count
                if count and (cached[path] > CACHED_BYTES or not left[path]):
                    cached[path] = 0
                    waiting.append(aside.submit(_to_disk, path))
                if count and progress is not None:
                    progress(written, total)
            checksum = added.result()
            done = [part.evict for part in batch if part.evict is not None]
            if done:
                waiting.append(aside.submit(_evict, done))
        for future in waiting:
            future.result()
    return [dict(sorted(sums.items())) for sums in checksums.values()]


@dataclass(frozen=True)
class _Place:
    """Where a tensor goes."""

    folder: Path
    entry: NewTensor
    file: Path
    start: int


def _plan(folder: Path, entries: list[NewTensor], shard_bytes: int) -> Iterator[_Place]:
    """Write the headers and the index, and give every tensor its place."""
    shards = plan_shards(entries, shard_bytes)
    names = [SINGLE]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        weight_map = {e.name: name for name, shard in zip(names, shards, strict=True) for e in shard}
        index = {
            "metadata": {"total_size": sum(e.nbytes for e in entries)},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        starts = _write_header(folder / name, shard)
        yield from (_Place(folder, e, folder / name, starts[e.name]) for e in shard)


def _write_header(path: Path, entries: list[NewTensor]) -> dict[str, int]:
    """Write the beginning of one file; give the first byte of each tensor.

    The layout depends on the names, dtypes and shapes alone, so that equal tensors make equal files: larger elements
    first (that keeps every tensor aligned), then by name; the header is padded to eight bytes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for e in sorted(entries, key=lambda e: (-ITEMSIZE[e.dtype], e.name)):
        header[e.name] = {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": [at, at + e.nbytes]}
        at += e.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return {e.name: 8 + len(text) + header[e.name]["data_offsets"][0] for e in entries}


@dataclass(frozen=True)
class _Part:
    """Some bytes of a tensor.

    Attributes:
        place: where it goes.
        data: the bytes; none at its end.
        start: the first of them in the tensor.
        ends: whether the tensor is done.
        evict: what is not read again after it.
    """

    place: _Place
    data: memoryview
    start: int
    ends: bool = False
    evict: Extent | None = None


def _read(places: Sequence[_Place]) -> Iterator[_Part]:
    """Give the bytes of each tensor, piece by piece, and nothing at all after its last piece."""
    for place, following in itertools.zip_longest(places, places[1:]):
        entry, at = place.entry, 0
        for chunk in entry.chunks():
            if chunk.dtype != word(entry.dtype) or at + chunk.nbytes > entry.nbytes:
                raise RuntimeError(f"{entry.name}: a piece that does not fit {entry.dtype} {entry.shape}")
            if chunk.size:
                yield _Part(place, np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data, at)
            at += chunk.nbytes
        if at < entry.nbytes:
            raise RuntimeError(f"{entry.name}: {entry.nbytes - at} bytes short of its shape {entry.shape}")
        again = following is not None and following.entry.source is entry.source
        yield _Part(place, memoryview(b""), at, True, None if again else entry.extent)


def _groups(places: Sequence[_Place]) -> list[list[_Place]]:
    """Tensors that one thread makes: some small ones, and all that are made of the same."""
    groups: list[list[_Place]] = []
    held, last = 0, None
    for place in places:
        count, source = place.entry.nbytes, place.entry.source
        again = source is not None and source is last
        if not groups or (held + count > BATCH and not again):
            groups.append([])
            held = 0
        groups[-1].append(place)
        held, last = held + count, source
    return groups


def _batches(parts: Iterator[_Part]) -> Iterator[list[_Part]]:
    """Parts that go from thread to thread together: handing over each of thousands takes longer than copying it."""
    batch: list[_Part] = []
    held = 0
    for part in parts:
        if batch and held + len(part.data) > BATCH:
            yield batch
            batch, held = [], 0
        batch.append(part)
        held += len(part.data)
    if batch:
        yield batch


def _add(batch: list[_Part], checksum: Checksum, checksums: Mapping[Path, dict[str, Sums]]) -> Checksum:
    """Go on with a tensor's checksum and with those of the tensors that follow; gives that of the last one."""
    for part in batch:
        checksum.add(part.data)
        if part.ends:
            checksums[part.place.folder][part.place.entry.name] = checksum.sums
            checksum = Checksum()
    return checksum


def _evict(extents: Iterable[Extent]) -> None:
    for extent in extents:
        extent.evict()


def _ahead(sources: Sequence[Iterator[T]]) -> Generator[T, None, None]:
    """All items of all sources in their order, made by other threads while the last ones are in use."""
    with ExitStack() as stack:
        readers = itertools.cycle([stack.enter_context(ThreadPoolExecutor(1, "read")) for _ in range(READERS)])
        left = iter(sources)
        begun: deque[tuple[ThreadPoolExecutor, Iterator[T], deque[Future[T | None]]]] = deque()

        def begin(source: Iterator[T]) -> None:
            reader = next(readers)
            begun.append((reader, source, deque(reader.submit(next, source, None) for _ in range(WAITING))))

        for source in itertools.islice(left, READERS):
            begin(source)
        while begun:
            reader, source, items = begun.popleft()
            while (item := items.popleft().result()) is not None:
                items.append(reader.submit(next, source, None))
                yield item
            for following in itertools.islice(left, 1):
                begin(following)


class _Files:
    """The file that is written to, one at a time: a source in another order may have any number in the making."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None
        self._at = 0

    def write(self, part: _Part) -> None:
        """Write a part to its place. Most lie behind the last one: to look for the place takes as long as to write."""
        place, data = part.place, part.data
        if self._path != place.file:
            self.close()
            self._file, self._path, self._at = open(place.file, "r+b", buffering=0), place.file, 0  # noqa: SIM115
        start = place.start + part.start
        if data and start != self._at:
            self._file.seek(start)
            self._at = start
        while data:  # an unbuffered file may take a part: at most 2 GB on Linux, less when the disk fills up
            count = self._file.write(data)
            self._at += count
            data = data[count:]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _to_disk(path: Path) -> None:
    """Put what a file has by now on the disk, and let the system drop its cache of it.

    Nothing reads it soon, and the pages serve for what comes next: fresh ones cost more time than the disk.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
