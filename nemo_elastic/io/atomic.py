# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a crash, a full disk or a typo never leaves half a result.

Whatever the user can mend comes out as one `ElasticError` line.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nemo_elastic.errors import ElasticError, is_environment
from nemo_elastic.io.outputs import absolute, check_output, is_empty, sign
from nemo_elastic.io.temporary import clear_leftovers, put_in_place, sync, temporary

__all__ = ["atomic_dir", "atomic_write", "explain_os_error", "explained", "filled_dir", "flush"]

_FULL = {errno.ENOSPC, errno.EDQUOT}
#: What libraries leave of the operating system's error when they raise their own: safetensors its text, torch's
#: writer of archives only that fewer bytes arrived than it gave, megatron-core the text of a process of its own.
_FULL_TEXT = ("No space left on device", "Disk quota exceeded")
_LARGE_TEXT = ("File too large",)
_SHORT_TEXT = ("PytorchStreamWriter failed writing", "unexpected pos ")
#: Names that `temporary` makes up; messages have the target's own.
_MADE_UP = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(?:lock|tmp|old)", re.DOTALL)


def explain_os_error(exc: BaseException, path: Path) -> ElasticError | None:
    """Word a full disk, an unwritable place and a failing device as one line.

    Args:
        exc: What was raised while something was written.
        path: The output that was being written.

    Returns:
        The error to raise instead, or None when `exc` is something else (a bug, say) and must keep its traceback.
    """
    path = _target(path)
    told, text = getattr(exc, "errno", None), str(exc)
    if told in _FULL or any(words in text for words in _FULL_TEXT):
        return ElasticError("no space left on the disk; nothing was written", path)
    if told == errno.EFBIG or any(words in text for words in _LARGE_TEXT):
        told = "a file is larger than the file system, or `ulimit -f`, allows; nothing was written"
        return ElasticError(told, path)
    if any(words in text for words in _SHORT_TEXT):
        return ElasticError("could not be written to its end, as on a full disk; nothing was written", path)
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
        told = explain_os_error(exc, path)
        if told is not None:
            raise told from exc
        raise


def _target(path: Path) -> Path:
    """The folder or file that is being written, where a path leads to or into a temporary name for it."""
    for i, part in enumerate(path.parts):
        found = _MADE_UP.fullmatch(part)
        if found:
            return Path(*path.parts[:i], found[1])
    return path


@contextmanager
def atomic_dir(
    out: str | os.PathLike[str], force: bool = False, inputs: Sequence[str | os.PathLike[str] | None] = ()
) -> Iterator[Path]:
    """Write a folder whole or not at all.

    Yields a new, empty folder beside `out`. When the block ends it is flushed to the disk and renamed to `out`; when
    the block raises anything at all, Ctrl-C included, it is removed and an older `out` is still there, untouched. What
    a process that was killed left behind is cleared away by the next that writes the same `out`.

    Args:
        out: The folder to write. Missing parents are made.
        force: Replace an existing `out`, if it is empty or this program wrote it. The two are exchanged in one step
            and the old one is removed afterwards. A symbolic link is replaced, not what it points to.
        inputs: All that the block reads. `out` has to be apart from it.

    Yields:
        The folder to write into.

    Raises:
        ElasticError: `out` may not be written (see `outputs.check_output`), the place cannot be, or the disk is full.
    """
    path = absolute(out)
    with explained(path):
        check_output(path, force, *inputs)
        _make_parent(path)
        with temporary(path) as tmp:
            tmp.mkdir()  # not tempfile.mkdtemp: the result must have the permissions of the user's umask, not 0700
            yield tmp
            flush(tmp)
            check_output(path, force, *inputs)  # something may have appeared while the block ran
            _put_new(tmp, path, force)


@contextmanager
def filled_dir(out: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """Write a folder in its place, for what has its own path inside; half of it may stay when the block raises.

    An older one stands aside while the block runs. It is removed when the block ends, and back when it raises.

    Args:
        out: The folder to write. One that is there and empty is filled.
        force: Replace an existing `out`, see `atomic_dir`.

    Yields:
        The folder to write into, signed as ours.

    Raises:
        ElasticError: See `atomic_dir`.
    """
    path = absolute(out)
    clear_leftovers(path)
    if is_empty(path):
        with explained(path):
            sign(path)
        yield path
        return
    check_output(path, force)
    with explained(path):
        _make_parent(path)
    with temporary(path) as tmp:
        old = tmp.with_suffix(".old")  # whoever leaves `temporary` removes it, or brings it back to an empty place
        with explained(path):
            if os.path.lexists(path):
                os.rename(path, old)
            path.mkdir()
            sign(path)
        try:
            yield path
        except BaseException:
            if os.path.lexists(old):
                os.rename(path, tmp)
            raise


def atomic_write(path: str | os.PathLike[str], content: str | bytes, replace: bool = True) -> None:
    """Write one file whole or not at all.

    Args:
        path: The file to write. Missing parents are made.
        content: Text (written as UTF-8 with the newlines it has) or bytes.
        replace: Whether an older one may be replaced. What a command names itself goes through `check_file` before.

    Raises:
        ElasticError: It exists and may not, the place cannot be written, or the disk is full.
    """
    path = absolute(path)
    if os.path.isdir(path):  # pathlib's raises where the name is too long
        raise ElasticError("is a folder; name a file", path)
    with explained(path):
        _make_parent(path)
        with temporary(path) as tmp:
            with open(tmp, "xb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(tmp, path)
                sync(path.parent)
            else:
                _put_new(tmp, path)


def _put_new(tmp: Path, path: Path, force: bool = False) -> None:
    try:
        put_in_place(tmp, path, replace=force)
    except FileExistsError:
        raise ElasticError("another process has written it just now; it is left as it is", path) from None


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as exc:  # pathlib's word for a file where a folder is needed
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), exc.filename) from None


def flush(root: Path) -> None:
    """Flush a folder with all that is in it to the disk."""
    for folder, _, files in os.walk(root):
        for name in files:
            if not os.path.islink(os.path.join(folder, name)):
                sync(Path(folder, name))
        sync(Path(folder))
