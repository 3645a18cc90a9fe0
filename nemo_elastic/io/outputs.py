# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of folders that commands write, and what `--force` may replace.

- An output is neither one of the command's inputs, nor inside one, nor around one.
- `--force` replaces an empty folder, or one of the kind (`Output`) that the command writes, which its manifest or the
  mark of `sign` says, and which has no other files than an output of that kind.
- A folder that is or holds the current folder, a home folder or a mount point is never replaced.

Paths are compared where they really are, by file number too: links and bind mounts are no other place.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nemo_elastic.errors import ElasticError, is_environment
from nemo_elastic.io.read import json_object
from nemo_elastic.io.write import (
    MARK,
    Name,
    absolute,
    clear_leftovers,
    explained,
    flush,
    folders_above,
    put_in_place,
    sync,
    temporary,
)


@dataclass(frozen=True)
class Output:
    """A kind of folder that a command writes, and alone replaces.

    Attributes:
        name: in words, with an article.
        files: regular expression of the relative paths that an output may have, besides its manifest. Where they are
            not known before it is written, `sign` lists them.
        manifest: the file that marks a folder of this kind.
        says: whether that file is of this kind: keys that its JSON object has at least, or a test of the file.
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
        if self.manifest == MARK:
            return content.get("kind") == self.name
        return bool(content) and self.says <= set(content)


@contextmanager
def atomic_dir(
    out: Name, force: bool = False, inputs: Sequence[Name | None] = (), kind: Output | None = None
) -> Iterator[Path]:
    """Write a folder whole or not at all.

    Yields a new, empty folder next to `out`. When the block ends it is flushed to the disk and renamed to `out`; when
    the block raises anything at all, Ctrl-C included, it is removed and an older `out` is still there, untouched.

    Args:
        out: The folder to write. Missing parents are made.
        force: Replace an existing `out`, if it is empty or of the same kind. A symbolic link is replaced, not what it
            points to.
        inputs: All that the block reads. `out` has to be apart from it.
        kind: of the output; it is signed if it has no manifest. None for outputs that are never replaced.
    """
    path = absolute(out)
    with explained(path):
        check_output(path, force, *inputs, kind=kind)
        with folders_above(path), temporary(path) as tmp:
            tmp.mkdir()  # not tempfile.mkdtemp: the result must have the permissions of the user's umask, not 0700
            yield tmp
            if kind is not None and kind.manifest == MARK:
                sign(tmp, kind)
            flush(tmp)
            check_output(path, force, *inputs, kind=kind)  # something may have appeared while the block ran
            put_in_place(tmp, path, force)


@contextmanager
def atomic_file(out: Name, force: bool = False, inputs: Sequence[Name | None] = ()) -> Iterator[Path]:
    """Write a file whole or not at all, in place, for what is larger than memory; see `atomic_dir`.

    Yields a path beside `out` where nothing is.
    """
    path = absolute(out)
    with explained(path):
        check_file(path, force, *inputs)
        with folders_above(path), temporary(path) as tmp:
            yield tmp
            sync(tmp)
            check_file(path, force, *inputs)
            put_in_place(tmp, path, force)


@contextmanager
def filled_dir(out: Name, kind: Output, force: bool = False) -> Iterator[Path]:
    """Write a folder in place, for content with absolute paths; a part may stay when the block raises.

    An older one stands aside while the block runs. It is removed when the block ends, and back when it raises, or when
    the process was killed and the next writes the same `out`.

    Args:
        out: The folder to write. One that is there and empty is filled.
        kind: of the output. The folder is signed; its files are listed when the block ends or raises.
        force: Replace an existing `out`, see `atomic_dir`.
    """
    path = absolute(out)
    with ExitStack() as stack:
        with explained(path):
            clear_leftovers(path)
            empty = is_empty(path)
            if not empty:
                check_output(path, force, kind=kind)
            stack.enter_context(folders_above(path))
            tmp = stack.enter_context(temporary(path))
            if not empty:
                tmp.mkdir()
            sign(path if empty else tmp, kind, whole=False)
            if not empty:
                put_in_place(tmp, path, force)
        try:
            yield path
        except BaseException:
            if not os.path.lexists(tmp.with_suffix(".old")):  # half of it stays, and may be replaced
                with suppress(OSError):
                    sign(path, kind)
            raise
        with explained(path):
            sign(path, kind)


def sign(folder: Path, kind: Output, whole: bool = True) -> None:
    """Mark a folder as an output of a kind without a manifest; list its files if it is complete."""
    content = {"made_by": "nemo-elastic", "kind": kind.name} | ({"files": sorted(_contents(folder))} if whole else {})
    new = folder / f"{MARK}.new"  # no temporary name of `io.write`: nothing but the mark may stay
    try:
        new.write_text(json.dumps(content) + "\n", encoding="utf-8")
        os.replace(new, folder / MARK)
    finally:
        new.unlink(missing_ok=True)


def is_empty(folder: Name) -> bool:
    """Whether a folder is there with nothing in it."""
    try:
        return not os.listdir(folder)
    except OSError:
        return False


def why_kept(folder: Name, kind: Output | None) -> str | None:
    """Why a folder that is there may not be replaced by a new one of a kind, in words; None where it may be."""
    path = Path(folder)
    if is_empty(path) or (path.is_symlink() and not path.exists()):
        return None
    if kind is None or not kind.is_at(path):
        return f"is not {kind.name if kind else 'an output'} that nemo-elastic wrote"
    files = json_object(path / MARK).get("files") if kind.manifest == MARK else None
    listed = [name for name in files if isinstance(name, str)] if isinstance(files, list) else []
    known, others = re.compile(kind.files, re.DOTALL), {kind.manifest, *listed}
    try:
        other = next((name for name in _contents(path) if name not in others and not known.fullmatch(name)), None)
    except OSError as exc:
        raise ElasticError(f"{exc.filename}: cannot be read ({exc.strerror})") from None
    if other is None:
        return None
    if kind.manifest == MARK and not kind.files and not listed:
        return f"is {kind.name} without a list of its files, as a killed writer leaves it"
    return f"contains {other}, which is not a part of {kind.name}"


def _contents(folder: Path) -> Iterator[str]:
    """Relative paths of everything in a folder but plain folders; links, pipes and mount points end in `@`."""

    def fail(exc: OSError) -> None:
        raise exc

    for here, folders, files in os.walk(folder, onerror=fail):
        for name in sorted((*folders, *files)):
            path = os.path.join(here, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISDIR(mode) or os.path.ismount(path):
                yield os.path.relpath(path, folder) + ("" if stat.S_ISREG(mode) else "@")


def check_output(out: Name, force: bool, *inputs: Name | None, kind: Output | None = None) -> None:
    """Refuse a folder that may not be written.

    Args:
        out: The folder.
        force: Whether one that is there may be replaced.
        inputs: All that is going to be read for it, see `check_apart`.
        kind: of outputs that may be replaced; None: only an empty folder.
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


def check_file(out: Name, force: bool, *inputs: Name | None) -> None:
    """Refuse a file that may not be written; see `check_output`. `force` replaces regular files only."""
    path = absolute(out)
    check_apart(path, *inputs)
    if path.is_dir():
        raise ElasticError(f"{path}: is a folder; name a file")
    if _exists(path):
        if not force:
            raise ElasticError(f"{path}: already exists; --force replaces it")
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ElasticError(f"{path}: is not a regular file, so --force does not replace it; name another file")
    check_place(path)


def check_place(out: Name) -> None:
    """Refuse what cannot be written because of its place, by taking and leaving a name there."""
    path = place = absolute(out)
    while not os.path.lexists(place.parent):  # the last folder that is there has to take the others
        place = place.parent
    try:
        with temporary(place):
            pass
    except OSError as exc:
        if not is_environment(exc):
            raise
        raise ElasticError(f"{path}: cannot be written ({exc.strerror}: {place.parent})") from None


def check_room(folder: Name, total: int) -> None:
    """Refuse to begin what the disk of an existing folder has no room for, in bytes."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and total > free:  # some network file systems give no sizes
        raise ElasticError(f"no space left on the disk: {total:,} bytes are needed and {free:,} free")


def _exists(path: Path) -> bool:
    """Whether anything is there; unlike `os.path.lexists` not silent about a name that cannot be."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise ElasticError(f"{path}: cannot be written ({exc.strerror}: {path})") from None
    return True


def _check_never(path: Path) -> None:
    """Refuse paths that are never replaced, such as the working directory (`--out . --force`)."""
    kept = {os.path.expanduser("~"): "the home folder"}
    with suppress(KeyError):  # in a container that runs under any number as its user
        kept[pwd.getpwuid(os.getuid()).pw_dir] = "the home folder"
    with suppress(FileNotFoundError):
        kept[os.getcwd()] = "the current folder"
    places = _places(path)
    for folder, word in reversed(kept.items()):
        real = Path(os.path.realpath(folder))
        if os.path.isabs(folder) and any(_same(real, place) or _within(real, place) for place in places):
            raise ElasticError(f"{path}: contains {word} and is never replaced; name a new folder")
    if any(os.path.ismount(place) for place in places):
        raise ElasticError(f"{path}: is a mount point, which cannot be replaced; name a folder inside it")


def check_apart(out: Name, *inputs: Name | None) -> None:
    """Refuse an output, a folder or a file, that is one of the inputs, inside one, or around one."""
    path = absolute(out)
    places = _places(path)
    for source in inputs:
        if source is None:
            continue
        there = absolute(source)
        real = Path(os.path.realpath(there))
        if any(_same(place, real) for place in places):
            raise ElasticError(f"{path}: is {source}, which is an input; name another place")
        if any(_within(place, real) for place in places):
            raise ElasticError(f"{path}: is inside {source}, which is an input; name a folder elsewhere")
        # the links on the way to it, too: what is read through them is lost with them
        ways = {real, *(way for step in (there, *there.parents) for way in _places(step))}
        if any(_within(way, place) for way in ways for place in places):
            raise ElasticError(f"{path}: contains {source}, which is an input; name another folder")


def _places(path: Path) -> set[Path]:
    """Where an absolute path leads, and where its own name stands: the last link of an output is what is replaced."""
    return {Path(os.path.realpath(path)), Path(os.path.realpath(path.parent), path.name)}


def _same(a: Path, b: Path) -> bool:
    with suppress(OSError):
        return a == b or os.path.samefile(a, b)
    return False


def _within(inner: Path, outer: Path) -> bool:
    return any(_same(parent, outer) for parent in inner.parents)
