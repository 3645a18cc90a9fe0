# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint was saved with: a list of its files and their sizes, and checksums that each rank adds later.

A rank reads back what it has just written, which its machine still has in memory, beside the training.
"""

from __future__ import annotations

import json
import os
import re
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.io.bounded import open_regular
from nemo_elastic.io.read import read_json

#: of a checkpoint: its files and their sizes; folder of checksums, one file per rank; why it must not be used
LIST, SUMS, DAMAGED = "elastic_files.json", "elastic_sums", "elastic_damaged.json"
_OF_RANK = re.compile(r".*__(\d+)_\d+\.distcp")
_BLOCK, _READERS = 2**24, 8


def write_list(checkpoint: Path, step: int) -> None:
    """Write down the files of a checkpoint that has just been written by all ranks, and their sizes."""
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name not in (LIST, DAMAGED) and path.parent.name != SUMS
    }
    (checkpoint / SUMS).mkdir(exist_ok=True)
    atomic_write(checkpoint / LIST, json.dumps({"step": step, "files": files}, indent=1) + "\n")


def listed_step(checkpoint: Path) -> int:
    """Steps after which it was saved; -1 where it has no list. Times of files do not survive every copy."""
    try:
        step = read_json(checkpoint / LIST)["step"]
    except (ElasticError, OSError, TypeError, KeyError):
        return -1
    return step if isinstance(step, int) else -1


def _listed(checkpoint: Path) -> dict[str, int]:
    content = read_json(checkpoint / LIST)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files or not all(type(size) is int for size in files.values()):
        raise ElasticError(f"{checkpoint / LIST}: is no list of files")
    return files


def wrong_file(checkpoint: Path) -> str | None:
    """Which file is not as it was saved, by its size or by checksums that a start has compared; None without a list.

    Raises:
        ElasticError: the list is damaged.
        OSError: it cannot be read.
    """
    if (checkpoint / DAMAGED).exists():
        return str(read_json(checkpoint / DAMAGED))
    if (checkpoint / LIST).exists():
        for name, size in _listed(checkpoint).items():
            file = checkpoint / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size} bytes, not the {size} that it was saved with"
    return None


class SumWriter:
    """Adds the checksums of this rank's files to a checkpoint, beside the training; one at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def start(self, checkpoint: Path, rank: int, ranks: int) -> None:
        """Begin; the list of its files is there."""
        self.wait()
        self._thread = threading.Thread(target=add_sums, args=(checkpoint, rank, ranks), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when they are written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def add_sums(checkpoint: Path, rank: int, ranks: int) -> None:
    """Write one rank's checksums.

    A checkpoint that cannot be read back has none; the next start will find out why.
    """
    try:
        sums = {name: file_sum(checkpoint / name) for name in _listed(checkpoint) if _owner(name, ranks) == rank}
        target, made = checkpoint / SUMS / f"{rank}.json", checkpoint / SUMS / f"{rank}.tmp"
        # not atomic.atomic_write, which makes folders: one that was removed meanwhile stays away
        made.write_text(json.dumps(sums, indent=1) + "\n")
        os.replace(made, target)
    except (ElasticError, OSError):
        return


def _owner(name: str, ranks: int) -> int:
    """The rank that wrote a file."""
    match = _OF_RANK.fullmatch(name)
    return int(match[1]) if match and int(match[1]) < ranks else 0


def file_sum(path: Path) -> str:
    """CRC-32 of a file, in hexadecimal digits."""
    value = 0
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)  # other threads run meanwhile
    return f"{value:08x}"


def check_sums(checkpoint: Path) -> str | None:
    """What checksums say of a checkpoint: None for nothing wrong. Files without one are not read."""
    wanted: dict[str, str] = {}
    try:
        files = _listed(checkpoint) if (checkpoint / LIST).exists() else {}
        for path in sorted((checkpoint / SUMS).glob("*.json")):
            part = read_json(path)
            wanted |= {name: part[name] for name in files if name in part} if isinstance(part, dict) else {}
    except ElasticError as exc:
        return str(exc)
    with ThreadPoolExecutor(_READERS) as readers:
        sums = dict(zip(wanted, readers.map(file_sum, (checkpoint / name for name in wanted)), strict=True))
    wrong = next((name for name in wanted if sums[name] != wanted[name]), None)
    return None if wrong is None else f"{wrong} has another checksum than it was saved with"
