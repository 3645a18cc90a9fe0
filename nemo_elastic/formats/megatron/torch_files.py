# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What `torch.save` wrote: a zip file that holds one pickle, and the values of each tensor in it beside that.

Its layout is strict, so it is read strictly: nothing compressed, nothing twice, nothing outside of its bytes.

NeMo and megatron-core open such files with readers that run what their pickles say. Nothing in this package does, but
to train is to load with their classes. So what a run starts from passes `check_harmless` first, whoever wrote it:
`.metadata`, `common.pt` and the objects among the weights may name nothing but values.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import torch

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.bounded import open_regular

from .forms import OBJECTS, STORAGES, TENSOR, TENSORS, fits_storage
from .metadata import ByteRange, Metadata, Piece, check_format, read_metadata, regular_size, signature, weights_folder
from .pickled import MOST, Form, Made, Name, PickleError, read_pickle

#: bytes of a pickle beside a tensor, of another object, of a table of contents, and in front of the name of a record
_PICKLE, _OBJECT, _CONTENTS, _HEADER = 2**26, 2**28, 2**23, 30
#: of a record; a zip file of torch's has one at its beginning
_BEGIN = b"PK\x03\x04"
#: what is not sharded: the file, and the object in which today's megatron-core keeps it where there is no such file
_COMMON, _COMMON_OBJECT = "common.pt", "common_state/shard_0_1"
#: where a run of Bridge's stands
STATE = "train_state.pt"
#: in a folder of weights: what NeMo's classes, not ours, would run or follow
_FORBIDDEN = {
    "modelopt_state": "NeMo would run what it holds",
    "adapter_metadata.json": "NeMo would load the model that it names",
}


class Item:
    """A zip file of torch's within a file.

    Args:
        file: open for reading.
        place: which bytes of it.

    Raises:
        PickleError: it is none.
    """

    def __init__(self, file: BinaryIO, place: ByteRange) -> None:
        self._file, self._place = file, place
        file.seek(place.offset)
        if file.read(4) != _BEGIN:  # where torch.load finds another beginning, it takes what is there for a pickle
            raise PickleError("it is not what torch.save writes")
        try:
            with zipfile.ZipFile(_Part(file, place)) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error):
            raise PickleError("it is not what torch.save writes") from None
        self._records = {entry.filename.partition("/")[2]: entry for entry in entries}
        folders = {entry.filename.partition("/")[0] for entry in entries}
        twice, squeezed = len(self._records) < len(entries), any(e.compress_type for e in entries)
        more = sum(entry.file_size for entry in entries) > place.length  # the same bytes many times
        if len(folders) != 1 or twice or squeezed or more:
            raise PickleError("it is not what torch.save writes")
        if "constants.pkl" in self._records:
            raise PickleError("it is a program in TorchScript")
        if self.record("byteorder", 16) not in (b"little", b""):
            raise PickleError("its numbers are written from the other end")

    def pickle(self) -> bytes:
        """The pickle."""
        content = self.record("data.pkl", _PICKLE)
        if not content:
            raise PickleError("it holds no pickle")
        return content

    def read(self, forms: Mapping[Name, Form], most: int = MOST) -> Any:
        """What the pickle is of, see `read_pickle`; what it says to lie beside it is there."""
        return read_pickle(self.pickle(), forms, most, lambda about: fits_storage(about, self._size))

    def _size(self, name: str) -> int | None:
        return self._records[name].file_size if name in self._records else None

    def is_the_same_to_torch(self) -> bool:
        """Whether torch.load finds the same records: a file can be two zip files, one to each reader."""
        self._file.seek(self._place.offset)
        content = self._file.read(min(self._place.length, _OBJECT + 1))
        if len(content) > _OBJECT:
            raise PickleError(f"it has more than {_OBJECT >> 20} MiB, which no object has")
        try:
            reader = torch._C.PyTorchFileReader(io.BytesIO(content))
            return (
                set(reader.get_all_records()) == set(self._records) and reader.get_record("data.pkl") == self.pickle()
            )
        except RuntimeError:
            return False

    def record(self, name: str, most: int) -> bytes:
        """A small record; nothing where it has none of the name."""
        if name not in self._records:
            return b""
        size, at = self._span(name)
        if size > most:
            raise PickleError(f"{name} of it has {size} bytes")
        self._file.seek(at)
        return self._file.read(size)

    def read_into(self, name: str, at: memoryview, skip: int) -> None:
        """Read values of a record, from so many bytes on, over those of a tensor."""
        size, start = self._span(name)
        if skip + at.nbytes > size:
            raise PickleError(f"it has {size} bytes for {skip + at.nbytes}")
        self._file.seek(start + skip)
        done = 0
        while done < at.nbytes:  # a single read ends at two GiB
            read = self._file.readinto(at[done : done + 2**30])  # pyright: ignore[reportAttributeAccessIssue]
            if not read:
                raise PickleError("it is cut off")
            done += read

    def _span(self, name: str) -> tuple[int, int]:
        """Size of a record, and where it begins in the file."""
        entry = self._records.get(name)
        if entry is None:
            raise PickleError(f"it has no {name}")
        self._file.seek(self._place.offset + entry.header_offset)
        header = self._file.read(_HEADER)
        if len(header) < _HEADER or header[:4] != _BEGIN:
            raise PickleError("it is damaged")
        begin = entry.header_offset + _HEADER + sum(struct.unpack("<HH", header[26:30]))
        if begin + entry.file_size > self._place.length:
            raise PickleError("it is cut off")
        return entry.file_size, self._place.offset + begin


class _Part:
    """Some bytes of a file as a file, for the reader of zip files, which is to read the table of contents alone."""

    def __init__(self, file: BinaryIO, place: ByteRange) -> None:
        self._inner, self._begin, self._size, self._at, self._left = file, place.offset, place.length, 0, _CONTENTS

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise ValueError("before the beginning")
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._size - self._at)
        size = rest if size < 0 else min(size, rest)
        self._left -= size
        if self._left < 0:
            raise ValueError("a longer table than any")
        self._inner.seek(self._begin + self._at)
        content = self._inner.read(size)
        self._at += len(content)
        return content


def read_piece(path: Path, piece: Piece, target: torch.Tensor) -> None:
    """Read a piece of a tensor.

    Args:
        path: the file that it is in.
        piece: see `Piece`.
        target: gets it; of its sizes and dtype, contiguous.

    Raises:
        PickleError: it is something else.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        item = Item(file, piece.place)
        record = item.read(TENSORS, most=1000)
        values = _values(record, target)
        if values is not None:
            item.read_into(f"data/{values[0]}", _bytes(target), values[1] * target.itemsize)


def _values(record: Any, target: torch.Tensor) -> tuple[str, int] | None:
    """Key of the storage that a tensor's values are in, and of how many others they come after; None for no values."""
    if not isinstance(record, Made) or record.kind != TENSOR:
        raise PickleError("it is no dense tensor")
    stored, first, size, stride = record.arguments[:4]
    about = stored.arguments[0]
    if STORAGES[about[1].kind] != target.dtype or size != tuple(target.shape):
        raise PickleError(f"it is not of shape {list(target.shape)} and {target.dtype}, as is said")
    if not target.numel():
        return None
    if stride != target.stride():
        raise PickleError("its values do not lie in order")
    return about[2], first


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data.cast("B")


# ------------------------------------------------------------------ a look at all of a checkpoint


def check_harmless(checkpoint: str | Path, only_weights: bool = False) -> Metadata:
    """Raise where a checkpoint holds what may run when it is loaded, or where a file of it is missing or cut off.

    Args:
        checkpoint: a NeMo checkpoint, or its folder of weights.
        only_weights: megatron-core alone will load it, not NeMo's classes.

    Returns:
        What its folder of weights holds.

    Raises:
        ElasticError: one line that names the file and what is in it.
    """
    folder = weights_folder(checkpoint)
    check_format(folder)
    for name, why in () if only_weights else _FORBIDDEN.items():
        if (folder / name).exists():
            raise bad("checkpoint", str(folder / name), f"a checkpoint without it: {why}")
    metadata = read_metadata(folder)
    for name in metadata.needed:
        metadata.file(name)
    for name in _files(folder, metadata, only_weights):
        check_file(folder / name)
    for name, place in metadata.objects.items():
        _check_object(folder / place.file, place, f"{name}: ")
    return metadata


def _files(folder: Path, metadata: Metadata, only_weights: bool) -> list[str]:
    """Pickles beside the weights that are loaded, by what is there: a file goes before an object of `.metadata`."""
    there = [name for name in (_COMMON, STATE) if os.path.lexists(folder / name)]
    return there if only_weights and _COMMON_OBJECT in metadata.objects else sorted({_COMMON, *there})


def check_file(path: Path) -> None:
    """Raise where a file of torch's holds what may run when it is loaded.

    Raises:
        ElasticError: one line that names the file and what is in it.
    """
    _check_object(path, ByteRange(path.name, 0, regular_size(path)), "")


def _check_object(path: Path, place: ByteRange, name: str) -> None:
    try:
        _check_values(path, place, signature(path))
    except PickleError as exc:
        raise ElasticError(f"{name}not what NeMo writes ({exc})", path) from None
    except OSError as exc:
        raise ElasticError(f"cannot be read ({exc.strerror})", path) from None


@lru_cache(maxsize=2**14)
def _check_values(path: Path, place: ByteRange, _: tuple[int, ...]) -> None:
    with open_regular(path) as file:
        item = Item(file, place)
        item.read(OBJECTS)
        if not item.is_the_same_to_torch():
            raise PickleError("torch.load would find something else in it")
