# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing files and folders so that a kill, a full disk or a typo never leaves half a result.

A result is written under a temporary name in the same folder, flushed to the disk and renamed. The temporary names are
`.TARGET.TOKEN.KIND`, one token per writer:

- `lock`: an empty file on which the writer holds a lock as long as it lives. Made first, removed last. It is a file
  because network file systems lock no folders.
- `tmp`: the new result, or something that is being removed.
- `old`: the result that is being replaced. Always whole: it is renamed to `tmp` before it is removed.

A token whose lock is free belongs to a writer that was killed. The next writer of the same target clears it away, and
brings the old result back where no new one is in its place.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nemo_elastic.errors import ElasticError, is_environment
from nemo_elastic.io.read import json_object

#: The file that signs an output without a manifest, and lists its files: checkpoints, the demo's folder.
MARK = ".nemo-elastic"
_KINDS = ("lock", "tmp", "old")
_TEMPORARY = re.compile(rf"\.(?P<stem>.+)\.(?P<token>[0-9a-f]{{8}})\.(?:{'|'.join(_KINDS)})", re.DOTALL)
#: A file name has at most 255 bytes; what a temporary name adds must still fit.
_LONGEST = 200
#: The system's words, which libraries leave of its error when they raise their own, and those of torch's writer of
#: archives, which says only that fewer bytes arrived than it gave.
_TEXTS = {
    r"No space left on device|Disk quota exceeded": "no space left on the disk",
    r"File too large": "a file is larger than the file system, or `ulimit -f`, allows",
    r"PytorchStreamWriter failed writing|unexpected pos ": "could not be written to its end, as on a full disk",
}

Name = str | os.PathLike[str]


# ------------------------------------------------------------------ files


def atomic_write(path: Name, content: str | bytes, replace: bool = True) -> None:
    """Write one file whole or not at all; folders above it are made.

    Args:
        path: The file to write.
        content: Text (written as UTF-8 with the newlines it has) or bytes.
        replace: Whether an older one may be replaced. What a command names itself goes through `check_file` before.
    """
    path = absolute(path)
    if os.path.isdir(path):  # pathlib's raises where the name is too long
        raise ElasticError("is a folder; name a file", path)
    with explained(path), folders_above(path), temporary(path) as tmp:
        with open(tmp, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if path.is_file():  # a group may write it
                shutil.copymode(path, tmp)
            os.fsync(file.fileno())
        if replace:
            os.replace(tmp, path)
            sync(path.parent)
        else:
            put_in_place(tmp, path)


def absolute(path: Name) -> Path:
    """Make a path absolute, without following links."""
    try:
        return Path(os.path.abspath(path))
    except FileNotFoundError:
        raise ElasticError("the current folder was deleted; change into one that exists") from None


def absolute_if_there(path: Name | None) -> str | None:
    """A path that is here, from the root: jobs start in other working directories. Another may be a cluster's."""
    if path is None:
        return None
    return os.path.abspath(path) if os.path.exists(path) else str(path)


@contextmanager
def folders_above(path: Path) -> Iterator[None]:
    """Make the folders above a path for the block that writes it; where that raises, none of them is left empty."""
    missing = [folder for folder in path.parents if not os.path.lexists(folder)]
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as exc:  # pathlib's word for a file where a folder is needed
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), exc.filename) from None
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def put_in_place(tmp: Path, path: Path, replace: bool = False) -> None:
    """Rename `tmp` to `path`. A kill between two renames leaves what was there as `.old`, for the next writer."""
    taken = ElasticError("another process wrote this file meanwhile; it was not replaced", path)
    if os.path.lexists(path):
        if not replace:
            raise taken
        os.rename(path, tmp.with_suffix(".old"))
    try:
        _take_name(tmp, path)  # where this fails, or is never reached, `_clear` brings the old one back
    except OSError:
        if os.path.lexists(path):
            raise taken from None
        raise
    sync(path.parent)


def _take_name(tmp: Path, path: Path) -> None:
    """Give `tmp` the name `path`, unless a file or a folder with content has appeared there."""
    if not tmp.is_dir():  # a rename replaces files
        try:
            os.link(tmp, path)
            return
        except FileExistsError:
            raise
        except OSError:
            pass  # a file system without hard links
    os.rename(tmp, path)


def flush(root: Path) -> None:
    """Flush a folder with all that is in it to the disk."""
    for folder, _, files in os.walk(root):
        for name in files:
            if not os.path.islink(os.path.join(folder, name)):
                sync(Path(folder, name))
        sync(Path(folder))


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


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, as far as it is there and can be removed."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


# ------------------------------------------------------------------ errors


def explain_os_error(exc: BaseException, path: Path) -> ElasticError | None:
    """Word a full disk, an unwritable place and a failing device as one line about the output that was being written.

    None where `exc` is something else (a bug, say) and must keep its traceback.
    """
    path = _target(path)
    for pattern, words in _TEXTS.items():
        if re.search(pattern, str(exc)):
            return ElasticError(f"{words}; nothing was changed there", path)
    if not isinstance(exc, OSError) or not is_environment(exc):
        return None
    named = Path(os.fsdecode(exc.filename)) if isinstance(exc.filename, (str, bytes)) else path
    where = _target(named)
    if where != named:
        where = where.parent
    elif where != path and where not in path.parents:
        return ElasticError(f"cannot be read ({exc.strerror})", where)  # something that is copied along
    return ElasticError(f"cannot be written ({exc.strerror}: {where})", path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the errors of `explain_os_error` into one line, for an output that is written in this block."""
    try:
        yield
    except (ElasticError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as exc:  # that of torch's checkpoints is no Exception
        error = explain_os_error(exc, path)
        if error is not None:
            raise error from exc
        raise


def _target(path: Path) -> Path:
    """The folder or file that is being written, where a path leads to or into a temporary name for it."""
    for i, part in enumerate(path.parts):
        if match := _TEMPORARY.fullmatch(part):
            return Path(*path.parts[:i], match["stem"])
    return path


# ------------------------------------------------------------------ temporary names and locks


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Reserve a temporary name next to `path`, whose folder exists; it is removed when the block ends."""
    if is_temporary(path):  # a writer of the final name would remove it
        raise ElasticError(f"{path}: has the form of a temporary name, .NAME.TOKEN.tmp; give another name")
    clear_leftovers(path)
    while True:
        token = secrets.token_hex(4)
        lock = _name(path, token, "lock")
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if _lock(handle) is not False and os.path.lexists(lock):
            break
        os.close(handle)  # a writer that clears leftovers was faster than us and took it for one
    try:
        yield _name(path, token, "tmp")
    finally:
        _clear(path, token)
        os.close(handle)


def clear_leftovers(path: Path) -> None:
    """Remove leftovers of killed writers of `path`; restore `path` if one was killed while replacing it."""
    try:
        matches = [_TEMPORARY.fullmatch(name) for name in os.listdir(path.parent)]
    except OSError:
        return  # no folder, or no permission
    for token in sorted({match["token"] for match in matches if match and match["stem"] == _stem(path)}):
        try:
            handle = os.open(_name(path, token, "lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:  # removed last, so what still has the token is being left by nobody
            _clear(path, token)
        except OSError:
            continue
        else:
            if _lock(handle):
                _clear(path, token)
            os.close(handle)


def _clear(path: Path, token: str) -> None:
    """Remove all that has a token; first bring `path` back if its place was left empty, or half filled."""
    lock, tmp, old = (_name(path, token, kind) for kind in _KINDS)
    remove(tmp)
    if os.path.lexists(old):
        with suppress(OSError):
            if _is_unfinished(path):
                os.rename(path, tmp)
                os.rename(old, path)
            else:
                os.rename(old, tmp if os.path.lexists(path) else path)
        remove(tmp)
    if not os.path.lexists(old):
        remove(lock)


def _is_unfinished(folder: Path) -> bool:
    """Whether a folder has a mark without a list of its files."""
    mark = json_object(folder / MARK)
    return bool(mark) and "files" not in mark


def is_temporary(path: Path) -> bool:
    """Whether a name is one that a writer gives to a target's `lock`, `tmp` or `old`."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _name(path: Path, token: str, kind: str) -> Path:
    return path.parent / f".{_stem(path)}.{token}.{kind}"


def _stem(path: Path) -> str:
    name = os.fsencode(path.name)
    return path.name if len(name) <= _LONGEST else hashlib.sha256(name).hexdigest()


def _lock(handle: int) -> bool | None:
    """Lock an open file; False if another process has the lock, None if the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
