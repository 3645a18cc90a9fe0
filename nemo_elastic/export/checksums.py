# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`elastic_checksums.json`: CRC-32 of every tensor of a folder, so that damage on the way is found and has a name.

They are of tensors, not of files: the same tensor has the same checksum in a family, in every shard size, and, where a
cut keeps it whole, in a member. They guard against accidents, not against somebody who means harm: a cryptographic
digest would take longer than the writing.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nemo_elastic.errors import ElasticError, bad, placed
from nemo_elastic.family import known_fields
from nemo_elastic.files import read_json

__all__ = ["CHECKSUMS_FILE", "Checksum", "read_checksums", "write_checksums"]

CHECKSUMS_FILE = "elastic_checksums.json"
_ALGORITHM = "crc32"
_DIGITS = re.compile("[0-9a-f]{8}")


class Checksum:
    """The CRC-32 of what is added to it, piece by piece."""

    def __init__(self) -> None:
        self._value = 0

    def add(self, piece: memoryview) -> None:
        """Go on with the next bytes. Other threads run meanwhile."""
        self._value = zlib.crc32(piece, self._value)

    @property
    def digits(self) -> str:
        """Eight hexadecimal digits."""
        return f"{self._value:08x}"


@dataclass
class _File:
    algorithm: str
    tensors: dict


def write_checksums(folder: Path, checksums: Mapping[str, str]) -> None:
    """Write the file into a folder; `checksums` has tensor name -> hexadecimal digits."""
    content = json.dumps({"algorithm": _ALGORITHM, "tensors": dict(checksums)}, indent=1)
    (folder / CHECKSUMS_FILE).write_text(content + "\n", encoding="utf-8")


def read_checksums(folder: Path) -> dict[str, str] | None:
    """Read the file of a folder: tensor name -> hexadecimal digits; None where there is no such file.

    Raises:
        ElasticError: It is something else.
    """
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return None
    try:
        known = known_fields(_File, read_json(path), CHECKSUMS_FILE)
        if known["algorithm"] != _ALGORITHM:
            raise bad("algorithm", known["algorithm"], f"this nemo-elastic reads {_ALGORITHM}")
        if not isinstance(known["tensors"], dict):
            raise bad("tensors", known["tensors"], "a mapping name -> checksum")
        for name, checksum in known["tensors"].items():
            if not isinstance(checksum, str) or not _DIGITS.fullmatch(checksum):
                raise bad(f"tensors.{name}", checksum, "8 hexadecimal digits")
    except ElasticError as exc:
        raise placed(exc, path) from None
    return known["tensors"]
