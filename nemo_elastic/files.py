# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Reading and writing files so that a crash, a full disk or a typo never leaves half a result.

Whatever the user can mend comes out as one `ElasticError` line.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import ElasticError

__all__ = ["atomic_dir", "atomic_write", "explain_os_error", "read_json"]

_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


def explain_os_error(exc: BaseException, path: Path) -> ElasticError | None:
    """Word a full disk or an unwritable place as one line.

    Args:
        exc: What was raised while something was written.
        path: The output that was being written.

    Returns:
        The error to raise instead, or None when `exc` is something else (a bug, say) and must keep its traceback.
    """
    # safetensors wraps the operating system's error in its own type and leaves only the text.
    if getattr(exc, "errno", None) in _FULL or "No space left on device" in str(exc):
        return ElasticError(f"{path}: no space left on the disk; nothing was written")
    if isinstance(exc, OSError) and exc.errno in _UNWRITABLE:
        return ElasticError(f"{path}: cannot be written ({exc.strerror}: {exc.filename or path})")
    return None


@contextmanager
def atomic_dir(out: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """Write a folder whole or not at all.

    Yields a new, empty folder beside `out`. When the block ends it is flushed to the disk and renamed to `out`; when
    the block raises anything at all, Ctrl-C included, it is removed and an older `out` is still there, untouched.

    Args:
        out: The folder to write. Missing parents are made.
        force: Replace an existing `out`. The old one is moved aside first and removed only after the rename, so `out`
            may be the very folder that the block reads from. A symbolic link is replaced, not what it points to.

    Yields:
        The folder to write into.

    Raises:
        ElasticError: `out` exists and `force` is False, the place cannot be written, or the disk is full.
    """
    path = Path(os.path.abspath(out))
    _refuse(path, force)
    tmp = _sibling(path, "tmp")
    try:
        _make_parent(path)
        tmp.mkdir()  # not tempfile.mkdtemp: the result must have the permissions of the user's umask, not 0700
        yield tmp
        _sync_tree(tmp)
        _swap_in(tmp, path, force)
    except BaseException as exc:
        shutil.rmtree(tmp, ignore_errors=True)
        told = explain_os_error(exc, path)
        if told is not None:
            raise told from exc
        raise


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write one file whole or not at all, replacing an older one.

    Args:
        path: The file to write. Missing parents are made.
        content: Text (written as UTF-8 with the newlines it has) or bytes.

    Raises:
        ElasticError: The place cannot be written, or the disk is full.
    """
    path = Path(os.path.abspath(path))
    if path.is_dir():
        raise ElasticError(f"{path}: is a folder; name a file")
    tmp = _sibling(path, "tmp")
    try:
        _make_parent(path)
        with open(tmp, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
        _sync(path.parent)
    except BaseException as exc:
        with suppress(OSError):
            tmp.unlink()
        told = explain_os_error(exc, path)
        if told is not None:
            raise told from exc
        raise


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file strictly: no duplicate keys, no NaN, no number that overflows to infinity.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        ElasticError: The file is missing, unreadable or not strict JSON; the message names the file and the place.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ElasticError(f"{path}: no such file") from None
    except UnicodeDecodeError as exc:
        raise ElasticError(f"{path}: not a JSON file (byte {exc.start} is not UTF-8)") from None
    except OSError as exc:
        raise ElasticError(f"{path}: cannot be read ({exc.strerror})") from None
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite)
    except json.JSONDecodeError as exc:
        raise ElasticError(f"{path}: not valid JSON (line {exc.lineno}, column {exc.colno}: {exc.msg})") from None
    except RecursionError:
        raise ElasticError(f"{path}: not valid JSON (nested too deeply)") from None
    except ValueError as exc:  # ours below, or an integer of thousands of digits
        raise ElasticError(f"{path}: not valid JSON ({exc})") from None


def _refuse(path: Path, force: bool) -> None:
    if os.path.lexists(path) and not force:
        raise ElasticError(f"{path}: already exists; --force replaces it")
    # --force on a folder that holds the user's work is a typo ("--out . --force"), not a wish.
    for kept, word in ((Path.cwd(), "the current folder"), (Path.home(), "the home folder")):
        if path == kept or path in kept.parents:
            raise ElasticError(f"{path}: holds {word} and is never replaced; name a new folder")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as exc:  # pathlib's word for a file where a folder is needed
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), exc.filename) from None


def _sibling(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name[:200]}.{secrets.token_hex(4)}.{kind}"


def _swap_in(tmp: Path, path: Path, force: bool) -> None:
    old = _sibling(path, "old")
    if os.path.lexists(path):
        _refuse(path, force)  # it may have appeared while the block ran
        os.rename(path, old)
        try:
            os.rename(tmp, path)
        except BaseException:
            os.rename(old, path)
            raise
    else:
        os.rename(tmp, path)
    _sync(path.parent)
    if old.is_symlink() or old.is_file():
        old.unlink()
    else:
        shutil.rmtree(old, ignore_errors=True)


def _sync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            if not os.path.islink(os.path.join(folder, name)):
                _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} appears twice in one object")
        found[key] = value
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value
