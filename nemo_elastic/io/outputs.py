# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What may be written where. Every command's output passes through `check_output` or `check_file`.

- An output is neither one of the command's inputs, nor inside one, nor around one.
- `--force` replaces an empty folder, or one of the kind (`Output`) that the command writes, which its manifest or the
  mark of `sign` says, and which holds nothing beside what such a folder has.
- What holds the current folder, a home folder or a mount point is never replaced.
- A place that cannot be written is found before anything is computed for it.

Paths are compared where they really are, by file number too: links and bind mounts are no other place.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError, is_environment
from nemo_elastic.io.read import open_regular, read_bytes
from nemo_elastic.io.temporary import clear_leftovers, temporary

__all__ = [
    "MARK",
    "Output",
    "absolute",
    "check_apart",
    "check_file",
    "check_output",
    "check_place",
    "check_room",
    "holds_text",
    "is_empty",
    "sign",
    "why_kept",
]

#: The file that signs an output without a manifest, and lists what is in it: checkpoints, the demo's folder.
MARK = ".nemo-elastic"
#: Bytes at a file's end in which `holds_text` looks.
_TAIL = 1000
#: What file managers leave in a folder by themselves.
_NOTHING = {".DS_Store"}

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Output:
    """A kind of folder that a command writes, and alone replaces.

    Attributes:
        name: in words, with an article.
        files: regular expression of what such a folder may hold beside its manifest, each file by its way from there.
            Where nobody can say that before, `sign` lists what was written.
        manifest: the file by which one is known.
        says: whether what is in that file says so: a JSON object that has these keys at least, or a test of its own.
    """

    name: str
    files: str = ""
    manifest: str = MARK
    says: frozenset[str] | Callable[[Path], bool] = frozenset()

    def is_at(self, folder: Path) -> bool:
        """Whether a folder is of this kind, whatever else is in it."""
        path = folder / self.manifest
        if callable(self.says):
            return self.says(path)
        content = json_object(path)
        return (
            content.get("kind") == self.name if self.manifest == MARK else bool(content) and self.says <= set(content)
        )


def absolute_if_there(path: str | os.PathLike[str] | None) -> str | None:
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


def check_output(out: _Path, force: bool, *inputs: _Path | None, kind: Output | None = None) -> None:
    """Refuse a folder that may not be written.

    Args:
        out: The folder.
        force: Whether one that is there may be replaced.
        inputs: All that is going to be read for it, see `check_apart`.
        kind: What is going to be written, and may be replaced; with None only an empty folder may.

    Raises:
        ElasticError: It is not apart from the inputs; it exists and `force` is False; it is of another kind, or holds
            what is never replaced, or anything that no such folder has; the place cannot be written.
    """
    path = absolute(out)
    check_apart(path, *inputs)
    clear_leftovers(path)  # what a killed writer left goes even where nothing may be written
    if _exists(path):
        why = why_kept(path, kind)
        if not force and why is None:
            raise ElasticError(f"{path}: already exists; --force replaces it")
        if not force:
            raise ElasticError(f"{path}: already exists, and {why}; name another folder")
        _check_never(path)
        if why is not None:
            raise ElasticError(f"{path}: {why}, so --force does not replace it; move it away first")
    check_place(path)


def _check_never(path: Path) -> None:
    """Refuse what is never replaced, whoever wrote it."""
    places = _places(path)
    for kept, word in _kept():
        if any(_same(kept, place) or _within(kept, place) for place in places):
            raise ElasticError(f"{path}: holds {word} and is never replaced; name a new folder")
    mounts = list(_mounts())
    if any(os.path.ismount(place) or place in mounts for place in places):
        raise ElasticError(f"{path}: is a mount point, which cannot be replaced; name a folder inside it")
    if any(_within(mount, place) for mount in mounts for place in places):
        raise ElasticError(f"{path}: holds a mount point and is never replaced; name a new folder")


def check_place(out: _Path) -> None:
    """Refuse what cannot be written because of its place, by taking and leaving a name there.

    Args:
        out: A folder or a file. Folders above it may be missing: the last one that is there has to take them.
    """
    path = absolute(out)
    place = path
    while not os.path.lexists(place.parent):
        place = place.parent
    try:
        with temporary(place):
            pass
    except OSError as exc:
        if not is_environment(exc):
            raise
        raise ElasticError(f"{path}: cannot be written ({exc.strerror}: {place.parent})") from None


def check_file(out: _Path, force: bool, *inputs: _Path | None) -> None:
    """Refuse a file that may not be written; see `check_output`. `force` replaces regular files only."""
    path = absolute(out)
    check_apart(path, *inputs)
    if path.is_dir():
        raise ElasticError(f"{path}: is a folder; name a file")
    if _exists(path):
        if not force:
            raise ElasticError(f"{path}: already exists; --force replaces it")
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ElasticError(f"{path}: is no regular file, so --force does not replace it; name another file")
    check_place(path)


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
        raise ElasticError(f"no space left on the disk: {lack}")


def sign(folder: Path, kind: Output, whole: bool = True) -> None:
    """Mark a folder as an output of a kind that has no manifest of its own.

    Args:
        folder: The folder.
        kind: What it is.
        whole: Whether all is in it that is ever written there, and is listed as such. Without a list nothing is known
            of what else is in it but by `kind.files`.
    """
    content = {"made_by": "nemo-elastic", "kind": kind.name} | ({"files": sorted(_contents(folder))} if whole else {})
    (folder / MARK).write_text(json.dumps(content) + "\n", encoding="utf-8")


def why_kept(folder: _Path, kind: Output | None) -> str | None:
    """Why a folder that is there may not be replaced by a new one of a kind, in words; None where it may be."""
    path = Path(folder)
    if is_empty(path) or (path.is_symlink() and not path.exists()):
        return None
    if kind is None or not kind.is_at(path):
        return f"is not {kind.name if kind else 'an output'} that nemo-elastic wrote"
    files = json_object(path / MARK).get("files") if kind.manifest == MARK else None
    listed = [name for name in files if isinstance(name, str)] if isinstance(files, list) else []
    known = {kind.manifest, *listed}
    try:
        other = next((name for name in _contents(path) if name not in known and not _is(kind.files, name)), None)
    except OSError as exc:
        raise ElasticError(f"{exc.filename}: cannot be read ({exc.strerror})") from None
    if other is None:
        return None
    if kind.manifest == MARK and not kind.files and not listed:
        return f"is {kind.name} without a list of its files, as a killed writer leaves it"
    return f"holds {other}, which is no part of {kind.name}"


def _contents(folder: Path) -> Iterator[str]:
    """The way to everything in a folder that is no folder; behind what is no regular file stands an `@`."""

    def fail(exc: OSError) -> None:
        raise exc

    for here, folders, files in os.walk(folder, onerror=fail):
        for name in sorted((*folders, *files)):
            path = os.path.join(here, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISDIR(mode) and name not in _NOTHING:
                yield os.path.relpath(path, folder) + ("" if stat.S_ISREG(mode) else "@")


def _is(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name, re.DOTALL) is not None


def is_empty(folder: _Path) -> bool:
    """Whether a folder is there with nothing in it."""
    try:
        return all(name in _NOTHING for name in os.listdir(folder))
    except OSError:
        return False


def holds_text(path: Path, text: bytes) -> bool:
    """Whether a text stands near the end of a file."""
    with suppress(OSError, ElasticError), open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return text in file.read(_TAIL)
    return False


def json_object(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; an empty one where it holds no such thing."""
    try:
        value: Any = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):  # ElasticError is a ValueError
        return {}
    return value if isinstance(value, dict) else {}


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
