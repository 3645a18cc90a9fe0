# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`elastic_checksums.json`: CRC-32 of every tensor of a folder, so that `verify` finds damage and names the tensor.

They are of tensors, not of files: the same tensor has the same checksum in a family, in every shard size, and, where a
cut keeps it whole, in a member. They guard against accidents, not against somebody who means harm: a cryptographic
digest would take longer than the writing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.io.fields import OneOf, Value, fitting, read
from nemo_elastic.io.read import read_bytes, read_json

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:  # optional dependency is missing; the same sums, ten times slower
    from zlib import crc32

__all__ = [
    "CHECKSUMS_FILE", "Checksums", "crc32", "digest", "family_digest", "hexadecimal", "read_checksums",
    "write_checksums",
]  # fmt: skip

CHECKSUMS_FILE = "elastic_checksums.json"
#: maximum size of a checksum file; 12B parameters need 0.1 MB
_BYTES = 2**28
_ALGORITHM = "crc32"


def _digits(count: int) -> Value:
    wanted = re.compile(f"[0-9a-f]{{{count}}}")
    return fitting(lambda x: isinstance(x, str) and wanted.fullmatch(x), f"{count} hexadecimal digits", {})


@dataclass(frozen=True)
class Checksums:
    """Content of the file.

    Attributes:
        algorithm: of the tensors' checksums.
        tensors: name of each tensor -> checksum of its bytes, eight hexadecimal digits.
        files: name of each other file that changes the model's output -> SHA-256.
    """

    algorithm: Annotated[str, OneOf((_ALGORITHM,))] = field(default=_ALGORITHM, kw_only=True)
    tensors: Mapping[str, Annotated[str, _digits(8)]]
    files: Mapping[str, Annotated[str, _digits(64)]]


def hexadecimal(crc: int) -> str:
    """A CRC-32 as the file has it."""
    return f"{crc:08x}"


def digest(content: bytes) -> str:
    """SHA-256 (hex) of a file without weights."""
    return hashlib.sha256(content).hexdigest()


def write_checksums(folder: Path, checksums: Checksums) -> None:
    """Write the file into a folder."""
    text = json.dumps(asdict(checksums), indent=1) + "\n"
    (folder / CHECKSUMS_FILE).write_text(text, encoding="utf-8")


def read_checksums(folder: Path) -> Checksums | None:
    """Read a folder's checksum file; None without one."""
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return None
    with inside(path):
        checksums = read(Checksums, read_json(path), "")
        for name in checksums.files:
            if not name or set(name) & set("/\\\0") or name in (".", ".."):
                raise bad("files", name, "names of files in the same folder")
    return checksums


def family_digest(folder: Path) -> str:
    """SHA-256 over a family's shapes and the checksums of its tensors: another training is another family.

    Extra shapes are not counted: they may be added and removed.
    """
    if not (folder / FILE).is_file():
        raise ElasticError(f"is not a family, because it has no {FILE}", folder)
    path = replace(Family.load(folder), extras=()).to_json()
    total = hashlib.sha256(json.dumps(path, sort_keys=True).encode())
    if (folder / CHECKSUMS_FILE).is_file():
        total.update(read_bytes(folder / CHECKSUMS_FILE, _BYTES))
    return total.hexdigest()
