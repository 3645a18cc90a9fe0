# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What may be written where. Every command's output passes through `check_output` or `check_file`.

- An output is neither one of the command's inputs, nor inside one, nor around one.
- `--force` replaces an empty folder, or one that this program wrote: a manifest of ours in it says so, or the mark of
  `sign` where an output has no manifest.
- What holds the current folder, a home folder or a mount point is never replaced.

Paths are compared where they really are, by file number too: links and bind mounts are no other place.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.bounded import open_regular, read_bytes
from nemo_elastic.io.temporary import clear_leftovers

__all__ = [
    "absolute",
    "check_apart",
    "check_file",
    "check_output",
    "check_room",
    "is_empty",
    "is_ours",
    "is_report_page",
    "sign",
]

#: The file that signs an output without a manifest: NeMo checkpoints, the demo's folder.
MARK = ".nemo-elastic"
#: Files by which an output is known, and keys that the JSON object in them has at least.
_MANIFESTS = {
    MARK: {"made_by"},
    "elastic.json": {"version", "parent", "axes", "members"},
    "elastic_member.json": {"version", "parent", "subnet"},
    "ranking.json": {"version", "digest", "parent", "depth"},
    "data.json": {"version", "vocab_size", "corpus", "splits"},
    "metrics.json": {"version", "seconds", "bigram_loss", "members", "targets"},  # the demo, before it was signed
}
#: A report, and what stands near the end of its page.
_PAGE, _FOOTER, _TAIL = "report.html", b"<footer>Made by nemo-elastic ", 1000
#: What file managers leave in a folder by themselves.
_NOTHING = {".DS_Store"}

_Path = str | os.PathLike[str]


def at_hand(path: str | os.PathLike[str] | None) -> str | None:
    """A path that is here, from the root: jobs start in other working directories. Another may be a cluster's."""
    if path is None:
        return None
    return os.path.abspath(path) if os.path.exists(path) else str(path)


def absolute(path: _Path) -> Path:
    """Make a path absolute, without following links.

    Raises:
        ElasticError: It is relative to a folder that was deleted.
    """
    try:
        return Path(os.path.abspath(path))
    except FileNotFoundError:
        raise ElasticError("the current folder was deleted; change into one that exists") from None


def check_apart(out: _Path, *inputs: _Path | None) -> None:
    """Refuse an output that is one of the inputs, inside one, or around one.

    Args:
        out: What is going to be written, a folder or a file.
        inputs: All that is going to be read for it. None is nothing.

    Raises:
        ElasticError: They are not apart.
    """
    path = absolute(out)
    places = _places(path)
    for source in inputs:
        if source is None:
            continue
        there = absolute(source)
        real = Path(os.path.realpath(there))
        if any(_same(place, real) for place in places):
            raise ElasticError(f"{path}: is {source}, which is read; name another place")
        if any(_within(place, real) for place in places):
            raise ElasticError(f"{path}: is inside {source}, which is read; name a folder elsewhere")
        # the links on the way to it, too: what is read through them is lost with them
        ways = {real, *(way for step in (there, *there.parents) for way in _places(step))}
        if any(_within(way, place) for way in ways for place in places):
            raise ElasticError(f"{path}: holds {source}, which is read; name another folder")


def check_output(out: _Path, force: bool, *inputs: _Path | None) -> None:
    """Refuse a folder that may not be written.

    Args:
        out: The folder.
        force: Whether one that is there may be replaced.
        inputs: All that is going to be read for it, see `check_apart`.

    Raises:
        ElasticError: It is not apart from the inputs; it exists and `force` is False; this program did not write it,
            or it holds what is never replaced.
    """
    path = absolute(out)
    check_apart(path, *inputs)
    clear_leftovers(path)  # what a killed writer left goes even where nothing may be written
    if not _exists(path):
        return
    ours = is_ours(path) or is_empty(path) or (path.is_symlink() and not path.exists())
    if not force and ours:
        raise ElasticError(f"{path}: already exists; --force replaces it")
    if not force:
        raise ElasticError(f"{path}: already exists, and nemo-elastic did not write it; name another folder")
    places = _places(path)
    for kept, word in _kept():
        if any(_same(kept, place) or _within(kept, place) for place in places):
            raise ElasticError(f"{path}: holds {word} and is never replaced; name a new folder")
    mounts = list(_mounts())
    if any(os.path.ismount(place) or place in mounts for place in places):
        raise ElasticError(f"{path}: is a mount point, which cannot be replaced; name a folder inside it")
    if any(_within(mount, place) for mount in mounts for place in places):
        raise ElasticError(f"{path}: holds a mount point and is never replaced; name a new folder")
    if not ours:
        raise ElasticError(f"{path}: nemo-elastic did not write it, so --force does not replace it; remove it first")


def check_file(out: _Path, force: bool, *inputs: _Path | None) -> None:
    """Refuse a file that may not be written; see `check_output`. `force` replaces regular files only."""
    path = absolute(out)
    check_apart(path, *inputs)
    if path.is_dir():
        raise ElasticError(f"{path}: is a folder; name a file")
    if not _exists(path):
        return
    if not force:
        raise ElasticError(f"{path}: already exists; --force replaces it")
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise ElasticError(f"{path}: is no regular file, so --force does not replace it; name another file")


def check_room(folder: _Path, total: int) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        folder: An existing folder on that disk.
        total: Bytes.

    Raises:
        ElasticError: They are more than are free.
    """
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and total > free:  # some network file systems give no sizes
        lack = f"{total:,} bytes are needed and {free:,} free"
        raise ElasticError(f"no space left on the disk: {lack}; nothing was written")


def sign(folder: Path, made_by: str = "nemo-elastic") -> None:
    """Mark a folder as ours, so that `--force` may replace it. For outputs that have no manifest of their own."""
    (folder / MARK).write_text(json.dumps({"made_by": made_by}) + "\n", encoding="utf-8")


def is_ours(folder: _Path) -> bool:
    """Whether this program wrote a folder, or every folder in it where that is all there is (several members)."""
    if _has_manifest(Path(folder)):
        return True
    inside = _entries(Path(folder))
    return bool(inside) and all(_has_manifest(Path(folder, name)) for name in inside)


def is_empty(folder: _Path) -> bool:
    """Whether a folder is there with nothing in it."""
    return _entries(Path(folder)) == []


def _entries(folder: Path) -> list[str] | None:
    try:
        return [name for name in os.listdir(folder) if name not in _NOTHING]
    except OSError:
        return None


def _has_manifest(folder: Path) -> bool:
    return any(keys <= _keys(folder / name) for name, keys in _MANIFESTS.items()) or is_report_page(folder / _PAGE)


def is_report_page(path: Path) -> bool:
    """Whether a file is the page of a report of ours."""
    with suppress(OSError, ElasticError), open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return _FOOTER in file.read(_TAIL)
    return False


def _keys(path: Path) -> set[str]:
    """Keys of the JSON object in a file; none where it holds no such thing."""
    try:
        found: Any = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):  # ElasticError is a ValueError
        return set()
    return set(found) if isinstance(found, dict) else set()


def _places(path: Path) -> set[Path]:
    """Where an absolute path leads, and where its own name stands: the last link of an output is what is replaced."""
    return {Path(os.path.realpath(path)), Path(os.path.realpath(path.parent), path.name)}


def _same(a: Path, b: Path) -> bool:
    with suppress(OSError):
        return a == b or os.path.samefile(a, b)
    return False


def _within(inner: Path, outer: Path) -> bool:
    return any(_same(parent, outer) for parent in inner.parents)


def _kept() -> Iterator[tuple[Path, str]]:
    """What is never replaced, nor anything around it: `--out . --force` is a typo, not a wish."""
    with suppress(FileNotFoundError):
        yield Path(os.getcwd()), "the current folder"
    homes = {os.path.expanduser("~")}
    with suppress(KeyError):  # in a container that runs under any number as its user
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    for home in homes:
        if os.path.isabs(home):
            yield Path(os.path.realpath(home)), "the home folder"


def _mounts() -> Iterator[Path]:
    """Where anything is mounted, as far as the system tells; also where that is on the same disk."""
    with suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            yield Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]))


def _exists(path: Path) -> bool:
    """Whether anything is there; unlike `os.path.lexists` not silent about a name that cannot be."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise ElasticError(f"{path}: cannot be written ({exc.strerror}: {path})") from None
    return True
