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
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nemo_elastic.formats.checksums import crc32, hexadecimal
from nemo_elastic.formats.tensor import ITEMSIZE, Extent, Tensor, word
from nemo_elastic.io.outputs import check_room
from nemo_elastic.io.values import integer

__all__ = ["INDEX", "SHARD_BYTES", "SINGLE", "Progress", "plan_shards", "write_weights"]

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
        progress: Called after every piece.

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
    left: Counter[Path] = Counter()
    for place in places:
        left[place.file] += place.tensor.nbytes
    cached: Counter[Path] = Counter()
    checksums: dict[Path, dict[str, str]] = {folder: {} for folder in folders}
    written = 0
    with (
        ThreadPoolExecutor(1, "aside") as aside,
        ThreadPoolExecutor(1, "checksum") as adding,
        closing(_ahead([_batches(_read(group)) for group in _groups(places)])) as reading,
        closing(_Files()) as files,
    ):
        waiting: list[Future[None]] = []
        checksum = 0
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
        tensor, at = place.tensor, 0
        for piece in tensor.pieces():
            if piece.dtype != word(tensor.dtype) or at + piece.nbytes > tensor.nbytes:
                raise RuntimeError(f"{place.name}: a piece that does not fit {tensor.dtype} {tensor.shape}")
            if piece.size:
                yield _Part(place, piece.reshape(-1).view(np.uint8).data, at)
            at += piece.nbytes
        if at < tensor.nbytes:
            raise RuntimeError(f"{place.name}: {tensor.nbytes - at} bytes short of its shape {tensor.shape}")
        again = following is not None and following.tensor.root is tensor.root
        yield _Part(place, memoryview(b""), at, True, None if again else tensor.extent)


def _groups(places: Sequence[_Place]) -> list[list[_Place]]:
    """Tensors that one thread makes: some small ones, and all that are made of the same."""
    groups: list[list[_Place]] = []
    held, last = 0, None
    for place in places:
        count, source = place.tensor.nbytes, place.tensor.root
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


def _add(batch: list[_Part], checksum: int, checksums: Mapping[Path, dict[str, str]]) -> int:
    """Go on with a tensor's checksum and with those of the tensors that follow; gives that of the last one."""
    for part in batch:
        checksum = crc32(part.data, checksum)
        if part.ends:
            checksums[part.place.folder][part.place.name] = hexadecimal(checksum)
            checksum = 0
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
