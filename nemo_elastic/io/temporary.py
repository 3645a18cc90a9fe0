# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Temporary names beside a target: taken, put in its place in one step, and cleared away when their writer was killed.

The names are `.TARGET.TOKEN.KIND` in the target's folder, one token per writer:

- `lock`: an empty file on which the writer holds a lock as long as it lives. Made first, removed last.
- `tmp`: what is being written, or removed.
- `old`: what is being replaced, where the file system cannot exchange two names, or where the target is filled in its
  place. Always whole: it is renamed to `tmp` before it is removed.
- `fill`: an empty file, as long as the target is filled in its place: what stands there is then not whole.

A token whose lock is free belongs to a writer that was killed, and the next one for the same target clears it away.
The lock is a file because network file systems lock no folders.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nemo_elastic.errors import ElasticError

__all__ = [
    "TEMPORARY", "clear_leftovers", "in_place_of", "is_temporary", "locked", "put_in_place", "remove", "sync",
    "temporary",
]  # fmt: skip

_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2(2)
#: What it answers where the kernel, a sandbox or the file system does not know a flag.
_UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
_KINDS = ("lock", "tmp", "old", "fill")
TEMPORARY = re.compile(rf"\.(?P<stem>.+)\.(?P<token>[0-9a-f]{{8}})\.(?:{'|'.join(_KINDS)})", re.DOTALL)
#: A file name has at most 255 bytes; what a temporary name adds must still fit.
_LONGEST = 200


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Take a free name beside `path`, and remove what has it when the block ends, however it ends.

    Args:
        path: The target. Its folder exists.

    Yields:
        The name. Nothing has it yet.

    Raises:
        ElasticError: The target has such a name itself: the next writer of what it names would clear it away.
    """
    if is_temporary(path):
        raise ElasticError(f"{path}: has the form of a temporary name, .NAME.TOKEN.tmp; give another name")
    clear_leftovers(path)
    token, handle = _take(path)
    try:
        yield _name(path, token, "tmp")
    finally:
        _clear(path, token)
        os.close(handle)


def put_in_place(tmp: Path, path: Path, replace: bool) -> None:
    """Rename `tmp` to `path`, in one step where the file system can.

    Args:
        tmp: A name that `temporary` gave. What was replaced may have it afterwards.
        path: The target.
        replace: Whether it may exist. It is then whole at every moment, the old one or the new one; where names cannot
            be exchanged, a kill between two renames leaves it to the next writer to bring the old one back.

    Raises:
        FileExistsError: It exists and may not, or another process has written it just now.
    """
    if replace and os.path.lexists(path):
        if not _rename(tmp, path, _EXCHANGE):
            os.rename(path, tmp.with_suffix(".old"))
            os.rename(tmp, path)  # where this fails, or is never reached, `_clear` brings the old one back
    elif not _rename(tmp, path, _NOREPLACE):
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.rename(tmp, path)
    sync(path.parent)


@contextmanager
def in_place_of(path: Path) -> Iterator[None]:
    """Make way for what is filled in its place while the block runs; what was there stands aside.

    It comes back where the block raises, or where the process is killed, and goes where the block ends.

    Args:
        path: The target. Its folder exists.
    """
    with temporary(path) as tmp:
        tmp.with_suffix(".fill").touch()
        if os.path.lexists(path):
            os.rename(path, tmp.with_suffix(".old"))
        yield
        tmp.with_suffix(".fill").unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until nobody else holds a file, and hold it while the block runs, which may replace it.

    Args:
        path: An existing file. Where the file system knows no locks, nobody waits.
    """
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # network file systems lock what may be written alone
        except OSError:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.stat(path), os.fstat(handle)):
                yield
                return
        finally:
            os.close(handle)


def clear_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; bring `path` back if one was killed while replacing it."""
    try:
        matches = [TEMPORARY.fullmatch(name) for name in os.listdir(path.parent)]
    except OSError:
        return  # no such folder, or not ours to look into
    for token in sorted({match["token"] for match in matches if match and match["stem"] == _stem(path)}):
        with _writer_is_dead(_name(path, token, "lock")) as dead:
            if dead:
                _clear(path, token)


def is_temporary(path: Path) -> bool:
    """Whether a name is one that a writer gives to a target's `lock`, `tmp` or `old`."""
    return TEMPORARY.fullmatch(path.name) is not None


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, as far as it is there and can be removed."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _stem(path: Path) -> str:
    name = os.fsencode(path.name)
    return path.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()


def _name(path: Path, token: str, kind: str) -> Path:
    return path.parent / f".{_stem(path)}.{token}.{kind}"


def _take(path: Path) -> tuple[str, int]:
    """Make a new token's lock: the token and the open file, which holds the lock until it is closed."""
    while True:
        token = secrets.token_hex(4)
        lock = _name(path, token, "lock")
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # a writer that clears leftovers was faster than us and took it for one
        except OSError:
            return token, handle  # no locks here: whoever clears leftovers finds that too, and leaves all alone
        else:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(lock), os.fstat(handle)):
                    return token, handle
        os.close(handle)


@contextmanager
def _writer_is_dead(lock: Path) -> Iterator[bool]:
    """Whether nobody holds that lock; as long as the block runs, we do."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        yield exc.errno == errno.ENOENT  # removed last, so what still has the token is being left by nobody
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(handle)


def _clear(path: Path, token: str) -> None:
    """Remove all that has a token; first bring `path` back if its place was left empty, or half filled."""
    lock, tmp, old, fill = (_name(path, token, kind) for kind in _KINDS)
    remove(tmp)
    if all(map(os.path.lexists, (fill, old, path))):
        with suppress(OSError):
            os.rename(path, tmp)
    if os.path.lexists(old):
        with suppress(OSError):
            os.rename(old, tmp if os.path.lexists(path) else path)
    remove(tmp)
    if not os.path.lexists(old):
        remove(fill)
        remove(lock)


def _rename(src: Path, dst: Path, flag: int) -> bool:
    """Rename with a flag of renameat2(2); False where that is not known here, and nothing has happened."""
    call = _renameat2()
    code = call(os.fsencode(src), os.fsencode(dst), flag) if call is not None else errno.ENOSYS
    if code and code not in _UNKNOWN:
        raise OSError(code, os.strerror(code), str(src), None, str(dst))
    return not code


@functools.cache
def _renameat2() -> Callable[[bytes, bytes, int], int] | None:
    """The C library's function as (from, to, flag) -> errno; None where it has none."""
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    here = -100  # AT_FDCWD

    def call(src: bytes, dst: bytes, flag: int) -> int:
        return ctypes.get_errno() if function(here, src, here, dst, flag) else 0

    return call
