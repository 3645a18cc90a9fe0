# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: which are whole, in which order, and how that is known.

A checkpoint is whole if it has no mark of an unfinished one, every file that it was saved with is there in its size
(`elastic_files.json`, written before the mark goes), and its metadata fits its files. One that was saved without the
list, by version 0.1 or by NeMo alone, is held against its metadata only.

Checksums come after that, beside the training: each rank reads back what it has just written, which its machine still
has in memory, so that no rank waits for another's gigabytes. They are verified before a start that follows a crash.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.megatron.harmless import check_harmless
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.io.bounded import open_regular
from nemo_elastic.io.read import read_json
from nemo_elastic.train.resume import choose_whole

#: of a checkpoint: its files and their sizes; folder of checksums, one file per rank; why it must not be used
LIST, SUMS, DAMAGED = "elastic_files.json", "elastic_sums", "elastic_damaged.json"
#: of a run's folder of checkpoints: who runs, and whether that has ended
RUN = "elastic_run.json"
#: NeMo's mark, beside a checkpoint
UNFINISHED = "-unfinished"
#: "always" or "never" verify checksums at a start; else it is done after a crash
VERIFY = "NEMO_ELASTIC_VERIFY"
_OF_RANK = re.compile(r"weights/.*__(\d+)_\d+\.distcp")
_BLOCK, _READERS, _PATIENCE = 2**24, 8, 3600


# ------------------------------------------------------------------------------------------------ which are whole


def saved(folder: Path) -> list[Path]:
    """Checkpoints in a run's folder that were finished once, the newest last."""
    found = [p for p in folder.glob("*last") if p.is_dir() and not _mark(p).exists()]
    return sorted(found, key=lambda p: (_step(p), p.lstat().st_mtime))


def whole_checkpoints(folder: Path) -> list[Path]:
    """Those of them from which a run can go on."""
    return [checkpoint for checkpoint in saved(folder) if problem(checkpoint) is None]


def folder_of(found: Path) -> Path:
    """The checkpoint of which NeMo names the folder, or that of its weights."""
    return found.parent if found.name == "weights" else found


def is_whole(checkpoint: Path) -> bool:
    """Whether a run can go on from a checkpoint."""
    return checkpoint.is_dir() and not _mark(checkpoint).exists() and problem(checkpoint) is None


def problem(checkpoint: Path) -> str | None:
    """What is wrong with a finished checkpoint, as far as sizes tell; None for a whole one."""
    try:
        if (checkpoint / DAMAGED).exists():
            return str(read_json(checkpoint / DAMAGED))
        if (checkpoint / LIST).exists():
            for name, size in _listed(checkpoint).items():
                file = checkpoint / name
                if not file.is_file():
                    return f"{name} is missing"
                if file.stat().st_size != size:
                    return f"{name} has {file.stat().st_size} bytes, not the {size} that it was saved with"
        check_harmless(checkpoint)
    except (ElasticError, OSError) as exc:
        return str(exc).removeprefix(f"{checkpoint}/")
    return None


def check_start(checkpoint: Path) -> None:
    """Refuse to start from what a run leaves at its end where that is not there: the run was stopped.

    Raises:
        ElasticError: there is no finished checkpoint of this name.
    """
    if not checkpoint.is_dir() or _mark(checkpoint).exists():
        found = whole_checkpoints(checkpoint.parent)
        left = f"its run has come as far as {found[-1].name}" if found else "its run has left no checkpoint"
        raise ElasticError(f"start: {checkpoint} is not there, or not whole; {left}; start that one again")


def check_whole(checkpoint: Path, first: bool) -> None:
    """Raise where a run cannot start from a checkpoint, which may be another run's.

    Args:
        checkpoint: a NeMo checkpoint.
        first: whether this rank is the one that reads checksums, where `VERIFY` says always.
    """
    why = problem(checkpoint)
    if why is None and first and os.environ.get(VERIFY) == "always":
        why = check_sums(checkpoint)
    if why is not None:
        raise ElasticError(f"checkpoint: {checkpoint}: {why}; nothing starts from it")


def newest(folder: Path) -> str:
    """What the next start will go on from, in words."""
    for checkpoint in reversed(saved(folder)):
        if problem(checkpoint) is None:
            return f"the next start goes on from {checkpoint}"
    return "there is no whole checkpoint" + ("" if saved(folder) else " yet")


def choose(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and why newer ones are passed over, see `choose_whole`."""
    return choose_whole(folder, saved(folder), problem)


def set_aside(folder: Path) -> None:
    """Give damaged checkpoints another name: the run will save under theirs again."""
    for checkpoint in saved(folder):
        if problem(checkpoint) is not None:
            names = (checkpoint.with_name(f"{checkpoint.name}-damaged{n or ''}") for n in range(1000))
            checkpoint.rename(next(name for name in names if not name.exists()))


def remove_unfinished(checkpoint: Path) -> None:
    """Remove what a save that failed has left, the mark last."""
    shutil.rmtree(checkpoint, ignore_errors=True)
    if not checkpoint.exists():
        _mark(checkpoint).unlink(missing_ok=True)


def _mark(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + UNFINISHED)


def _step(checkpoint: Path) -> int:
    """Steps after which it was saved; -1 where it has no list. Times of files do not survive every copy."""
    try:
        step = read_json(checkpoint / LIST)["step"]
    except (ElasticError, OSError, TypeError, KeyError):
        return -1
    return step if isinstance(step, int) else -1


def _listed(checkpoint: Path) -> dict[str, int]:
    told = read_json(checkpoint / LIST)
    files = told.get("files") if isinstance(told, dict) else None
    if not isinstance(files, dict) or not files or not all(type(size) is int for size in files.values()):
        raise ElasticError(f"{checkpoint / LIST}: is no list of files")
    return files


# ------------------------------------------------------------------------------------------------ sizes and checksums


def write_list(checkpoint: Path, step: int) -> None:
    """Write down the files of a checkpoint that has just been written by all ranks, and their sizes."""
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name not in (LIST, DAMAGED) and path.parent.name != SUMS
    }
    (checkpoint / SUMS).mkdir(exist_ok=True)
    atomic_write(checkpoint / LIST, json.dumps({"step": step, "files": files}, indent=1) + "\n")


class SumWriter:
    """Adds the checksums of this rank's files to a checkpoint, beside the training; one at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def start(self, checkpoint: Path, rank: int, ranks: int) -> None:
        """Begin; the list of its files is there."""
        self.wait()
        self._thread = threading.Thread(target=_add_sums, args=(checkpoint, rank, ranks), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when they are written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _add_sums(checkpoint: Path, rank: int, ranks: int) -> None:
    """A checkpoint that cannot be read back has none; the next start will find out why."""
    try:
        found = {name: file_sum(checkpoint / name) for name in _listed(checkpoint) if _owner(name, ranks) == rank}
        target, made = checkpoint / SUMS / f"{rank}.json", checkpoint / SUMS / f"{rank}.tmp"
        # not atomic.atomic_write, which makes folders: one that was removed meanwhile stays away
        made.write_text(json.dumps(found, indent=1) + "\n")
        os.replace(made, target)
    except (ElasticError, OSError):
        return


def _owner(name: str, ranks: int) -> int:
    """The rank that wrote a file."""
    found = _OF_RANK.fullmatch(name)
    return int(found[1]) if found and int(found[1]) < ranks else 0


def file_sum(path: Path) -> str:
    """CRC-32 of a file, in hexadecimal digits."""
    value = 0
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)  # other threads run meanwhile
    return f"{value:08x}"


def check_sums(checkpoint: Path) -> str | None:
    """What checksums tell of a checkpoint: None for nothing wrong. Files without one are not read."""
    told: dict[str, Any] = {}
    try:
        files = _listed(checkpoint) if (checkpoint / LIST).exists() else {}
        for path in sorted((checkpoint / SUMS).glob("*.json")):
            part = read_json(path)
            told |= {name: part[name] for name in files if name in part} if isinstance(part, dict) else {}
    except ElasticError as exc:
        return str(exc)
    with ThreadPoolExecutor(_READERS) as readers:
        sums = dict(zip(told, readers.map(file_sum, (checkpoint / name for name in told)), strict=True))
    wrong = next((name for name in told if sums[name] != told[name]), None)
    return None if wrong is None else f"{wrong} has another checksum than it was saved with"


# ------------------------------------------------------------------------------------------------ before a start


@dataclass(frozen=True)
class LastRun:
    """Who trained last into a folder of checkpoints.

    Attributes:
        start: how many starts there were.
        ended: whether it came to its end; one that crashed did not.
        verified: whether a start after it has looked at checksums.
    """

    start: int
    ended: bool = False
    verified: bool = False

    @classmethod
    def read(cls, folder: Path) -> LastRun | None:
        """None where no run of ours was."""
        try:
            told = read_json(folder / RUN)
            return cls(int(told["start"]), told["ended"] is True, told["verified"] is True)
        except (ElasticError, TypeError, ValueError, KeyError, OverflowError):
            return None

    def write(self, folder: Path) -> None:
        atomic_write(folder / RUN, json.dumps(vars(self)) + "\n")


def begin(folder: Path) -> None:
    """Note that a run trains into this folder."""
    last = LastRun.read(folder)
    LastRun(1 if last is None else last.start + 1).write(folder)


def end(folder: Path) -> None:
    """Note that it has ended as it should."""
    run = LastRun.read(folder)
    if run is not None:
        LastRun(run.start, ended=True).write(folder)


def verify_sums(folder: Path, first: bool) -> None:
    """Look at the checksums of the newest checkpoint before a start, where that is due; then at those before it.

    There is no process group yet. So one rank reads, what it finds lies in the folder, and the others wait for it.

    Args:
        folder: of checkpoints.
        first: whether this is that rank.

    Raises:
        ElasticError: the environment variable says something else than it may, or the other rank does not come back.
    """
    wish, run = os.environ.get(VERIFY, ""), LastRun.read(folder)
    if wish not in ("", "always", "never"):
        raise bad(VERIFY, wish, "always or never; without it, checksums are verified after a crash")
    if wish == "never" or run is None or run.verified or (run.ended and not wish):
        return
    if first:
        for checkpoint in reversed(saved(folder)):
            why = check_sums(checkpoint) if problem(checkpoint) is None else ""
            if why is None:
                break
            if why:
                atomic_write(checkpoint / DAMAGED, json.dumps(why))
        LastRun(run.start, run.ended, verified=True).write(folder)
        return
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        now = LastRun.read(folder)
        if now is None or now.verified or now.start != run.start:
            return
        time.sleep(0.5)
    raise ElasticError(f"checkpoints: {folder}: rank 0 did not verify the checksums within {_PATIENCE // 60} minutes")
