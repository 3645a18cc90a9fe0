# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`elastic_checksums.json`: CRC-32 of every tensor of a folder, so that damage on the way is found and has a name.

They are of tensors, not of files: the same tensor has the same checksum in a family, in every shard size, and, where a
cut keeps it whole, in a member. A tensor of more than `PART_BYTES` has one for each such part of its bytes as well:
a cut reads some rows of a tensor, and holds just the parts that it touches against what was written. They guard
against accidents, not against somebody who means harm: a cryptographic digest would take longer than the writing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from nemo_elastic.core.family import known_fields
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.io.read import read_bytes, read_json
from nemo_elastic.io.values import integer
from nemo_elastic.io.write import locked

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:  # installed without what it needs; the same sums, ten times slower
    from zlib import crc32

__all__ = [
    "CHECKSUMS_FILE",
    "PART_BYTES",
    "Checksum",
    "ExpectedTensor",
    "ReadCheck",
    "Sums",
    "digest",
    "family_digest",
    "held_family",
    "read_checksums",
    "read_digests",
    "write_checksums",
]

CHECKSUMS_FILE = "elastic_checksums.json"
#: a cut reads up to so much beside each run of rows that it keeps; 12B parameters have a megabyte of checksums
PART_BYTES = 2**18
#: bytes that are asked for at once, of what is read for its checksum alone
_STEP = 2**22
#: of such a file: 12B parameters have a megabyte
_BYTES = 2**28
_ALGORITHM = "crc32"
_DIGITS = 8
_ONE, _SEVERAL = re.compile("[0-9a-f]{8}"), re.compile("(?:[0-9a-f]{8})+")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Sums:
    """CRC-32 of one tensor, in hexadecimal digits.

    Attributes:
        whole: of all its bytes, eight digits.
        parts: of each `part_bytes` of them, one after the other; empty where the tensor is no larger, or where an
            older version wrote none.
        part_bytes: bytes of a part; the last may have fewer.
    """

    whole: str
    parts: str = ""
    part_bytes: int = PART_BYTES

    def found_in(self, computed: Sums) -> bool:
        """Whether what was computed with the same size of parts is what these say."""
        return self.whole == computed.whole and self.parts in ("", computed.parts)


class Checksum:
    """The CRC-32 of what is added to it, piece by piece, in one pass for the whole and its parts."""

    def __init__(self, part_bytes: int = PART_BYTES) -> None:
        self._size = part_bytes
        self._whole = self._part = self._held = 0  # CRC of the parts that are done, of this one, and its bytes
        self._parts: list[int] = []

    def add(self, piece: memoryview) -> None:
        """Go on with the next bytes. Other threads run meanwhile."""
        while piece:
            first, piece = piece[: self._size - self._held], piece[self._size - self._held :]
            self._part = crc32(first, self._part)
            self._held += len(first)
            if self._held == self._size:
                self._whole = _join(self._whole, self._part, _shifts(self._size))
                self._parts.append(self._part)
                self._part = self._held = 0

    @property
    def sums(self) -> Sums:
        """Of all that was added."""
        whole, parts = self._whole, self._parts
        if self._held:
            whole = _join(whole, self._part, _shifts(self._held)) if parts else self._part
            parts = [*parts, self._part]
        return Sums(_hex(whole), "".join(map(_hex, parts)) if len(parts) > 1 else "", self._size)


@lru_cache(maxsize=256)  # tensors of a model have few sizes
def _shifts(count: int) -> tuple[int, ...]:
    """What each bit of a CRC becomes when `count` bytes follow: it is linear, and zeros add nothing of their own."""
    zeros = bytes(count)
    none = crc32(zeros)
    return tuple(crc32(zeros, 1 << bit) ^ none for bit in range(32))


def _join(before: int, after: int, shifts: tuple[int, ...]) -> int:
    """CRC of two pieces, of which the second has as many bytes as `shifts` is of."""
    for bit, shifted in enumerate(shifts):
        if before >> bit & 1:
            after ^= shifted
    return after


def _hex(value: int) -> str:
    return f"{value:08x}"


@dataclass(frozen=True)
class ExpectedTensor:
    """What a tensor of a folder has to be.

    Attributes:
        where: file and name of the tensor, for the error.
        sums: its checksums; None where the folder has checksums, but none of this tensor.
    """

    where: str
    sums: Sums | None

    def wrong(self) -> ElasticError:
        """The error for bytes that are something else."""
        return ElasticError(
            f"{self.where} is not what was written, by {CHECKSUMS_FILE}; fetch the folder again, or delete that file "
            f"if the weights were changed on purpose"
        )


class Bytes(Protocol):
    """All bytes of a tensor, in memory or behind a `raw.Window`."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


class ReadCheck:
    """Holds a tensor's bytes against its checksums while they are read, from front to back.

    Every part that holds one of the bytes that are read is computed once, to its end.

    Args:
        data: all bytes of the tensor.
        expected: what they have to be; None where nothing is known, and nothing is computed.
        right: parts that were read just now, for another member of the same pass, and were right; grows.
    """

    def __init__(self, data: Bytes, expected: ExpectedTensor | None, right: set[int] | None = None) -> None:
        self._data, self._expected = data, expected
        self._right = set() if right is None else right
        if expected is not None and expected.sums is None:
            raise expected.wrong()
        sums = expected.sums if expected is not None else None
        self._known = (sums.parts or sums.whole) if sums is not None else ""
        self._size = sums.part_bytes if sums is not None and sums.parts else max(1, len(data))
        self._at = self._crc = 0

    def around(self, start: int, stop: int) -> tuple[int, int]:
        """The bytes that are read where these are: up to the ends of their parts, where these are small."""
        if self._expected is None or self._size > _STEP:
            return start, stop
        return start // self._size * self._size, min(-(-stop // self._size) * self._size, len(self._data))

    def reach(self, start: int, stop: int) -> None:
        """These bytes are read now; they lie behind those of the last call.

        Raises:
            ElasticError: A part that ends here is not what was written.
        """
        if self._expected is not None:
            self.leave(start)
            self._add(stop)

    def leave(self, start: int) -> None:
        """Nothing before this byte is read any more.

        Raises:
            ElasticError: A part that was begun, and ends before it, is not what was written.
        """
        if self._expected is not None and start // self._size > self._at // self._size:
            self.end()
            self._at = start // self._size * self._size

    def end(self) -> None:
        """No more is read: what is left of the last part decides about it.

        Raises:
            ElasticError: It is not what was written.
        """
        if self._at % self._size:
            self._add(min((self._at // self._size + 1) * self._size, len(self._data)))

    def _add(self, stop: int) -> None:
        while self._at < stop:
            part = self._at // self._size
            end = min((part + 1) * self._size, len(self._data))
            if part in self._right:
                self._at = end
                continue
            step = min(stop, end, self._at + _STEP)
            self._crc = crc32(self._data[self._at : step], self._crc)
            self._at = step
            if self._at == end:
                if _hex(self._crc) != self._known[part * _DIGITS : (part + 1) * _DIGITS]:
                    assert self._expected is not None
                    raise self._expected.wrong()
                self._right.add(part)
                self._crc = 0


@dataclass
class _File:
    algorithm: str
    tensors: dict
    part_bytes: int = PART_BYTES  # version 0.1 wrote no parts
    parts: dict | None = None
    files: dict | None = None  # version 0.1 wrote none


def digest(content: bytes) -> str:
    """SHA-256 of a file that stands beside weights, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def write_checksums(folder: Path, checksums: Mapping[str, Sums], files: Mapping[str, str]) -> None:
    """Write the file into a folder.

    Args:
        folder: The folder.
        checksums: Name of each tensor -> its sums, all with parts of `PART_BYTES`.
        files: Name of each file that stands beside the weights, and changes what the model says or runs -> its digest.
    """
    content = {
        "algorithm": _ALGORITHM,
        "tensors": {name: sums.whole for name, sums in checksums.items()},
        "part_bytes": PART_BYTES,
        "parts": {name: sums.parts for name, sums in checksums.items() if sums.parts},
        "files": dict(files),
    }
    (folder / CHECKSUMS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_checksums(folder: Path) -> dict[str, Sums] | None:
    """Read the file of a folder: tensor name -> its sums; None where there is no such file.

    Raises:
        ElasticError: It is something else.
    """
    read = _read(folder)
    return None if read is None else read[0]


def read_digests(folder: Path) -> dict[str, str] | None:
    """Read of the same file: name of a file -> its digest; None where there are none.

    Raises:
        ElasticError: It is something else.
    """
    read = _read(folder)
    return None if read is None else read[1]


def _read(folder: Path) -> tuple[dict[str, Sums], dict[str, str] | None] | None:
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return None
    with inside(path):
        known = _File(**known_fields(_File, read_json(path), CHECKSUMS_FILE))
        if known.algorithm != _ALGORITHM:
            raise bad("algorithm", known.algorithm, f"this nemo-elastic reads {_ALGORITHM}")
        size = integer("part_bytes", known.part_bytes, 2**12, "a number of bytes from 4096 to 2**40", 2**40)
        whole = _digits("tensors", known.tensors, _ONE, "8 hexadecimal digits")
        parts = _digits("parts", known.parts or {}, _SEVERAL, "8 hexadecimal digits for each part")
        stray = next((name for name in parts if name not in whole), None)
        if stray is not None:
            raise bad("parts", stray, "the names under tensors")
        files = None if known.files is None else _digits("files", known.files, _DIGEST, "64 hexadecimal digits")
        for name in files or ():
            if not name or set(name) & set("/\\\0") or name in (".", ".."):
                raise bad("files", name, "names of files in the same folder")
    return {name: Sums(digits, parts.get(name, ""), size) for name, digits in whole.items()}, files


def _digits(field: str, sums: object, wanted: re.Pattern[str], allowed: str) -> dict[str, str]:
    if not isinstance(sums, dict):
        raise bad(field, sums, "a mapping name -> checksum")
    for name, digits in sums.items():
        if not isinstance(digits, str) or not wanted.fullmatch(digits):
            raise bad(f"{field}.{name}", digits, allowed)
    return sums


def family_digest(folder: Path) -> str:
    """SHA-256 over a family's shapes and the checksums of its tensors: another training is another family.

    Extra shapes are none of its members, and may come and go.

    Raises:
        ElasticError: The folder is no family.
    """
    if not (folder / FILE).is_file():
        raise ElasticError(f"no family: it has no {FILE}", folder)
    path = replace(Family.load(folder), extras=()).to_json()
    total = hashlib.sha256(json.dumps(path, sort_keys=True).encode())
    if (folder / CHECKSUMS_FILE).is_file():
        total.update(read_bytes(folder / CHECKSUMS_FILE, _BYTES))
    return total.hexdigest()


@contextmanager
def held_family(folder: Path, known: str | None = None) -> Iterator[Family]:
    """Hold a family while something is added to its folder; whoever else does so waits, and finds it there.

    Args:
        folder: Of the family.
        known: Digest of the family for which it was found, which may have taken long; None for the one that is there.

    Yields:
        The family as it is now.

    Raises:
        ElasticError: It is another one by now.
    """
    with locked(folder / FILE):
        if known is not None and family_digest(folder) != known:
            raise ElasticError("another family was written there meanwhile; start anew", folder)
        yield Family.load(folder)
