# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a crash, a full disk or a typo never leaves half a result.

Whatever the user can fix comes out as one `ElasticError` line.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from nemo_elastic.errors import ElasticError, is_environment
from nemo_elastic.io.outputs import MARK, Output, absolute, check_output, is_empty, sign
from nemo_elastic.io.temporary import TEMPORARY, clear_leftovers, in_place_of, put_in_place, sync, temporary

__all__ = ["atomic_dir", "atomic_write", "explain_os_error", "explained", "filled_dir", "flush", "prepared"]

_FULL = {errno.ENOSPC, errno.EDQUOT}
#: What libraries leave of the operating system's error when they raise their own: safetensors its text, torch's
#: writer of archives only that fewer bytes arrived than it gave, megatron-core the text of a process of its own.
_FULL_TEXT = ("No space left on device", "Disk quota exceeded")
_LARGE_TEXT = ("File too large",)
_SHORT_TEXT = ("PytorchStreamWriter failed writing", "unexpected pos ")


def explain_os_error(exc: BaseException, path: Path) -> ElasticError | None:
    """Word a full disk, an unwritable place and a failing device as one line.

    Args:
        exc: What was raised while something was written.
        path: The output that was being written.

    Returns:
        The error to raise instead, or None when `exc` is something else (a bug, say) and must keep its traceback.
    """
    path = _target(path)
    code, text = getattr(exc, "errno", None), str(exc)
    if code in _FULL or any(words in text for words in _FULL_TEXT):
        return ElasticError("no space left on the disk; nothing was changed there", path)
    if code == errno.EFBIG or any(words in text for words in _LARGE_TEXT):
        code = "a file is larger than the file system, or `ulimit -f`, allows; nothing was changed there"
        return ElasticError(code, path)
    if any(words in text for words in _SHORT_TEXT):
        return ElasticError("could not be written to its end, as on a full disk; nothing was changed there", path)
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
        match = TEMPORARY.fullmatch(part)
        if match:
            return Path(*path.parts[:i], match["stem"])
    return path


@contextmanager
def atomic_dir(
    out: str | os.PathLike[str],
    force: bool = False,
    inputs: Sequence[str | os.PathLike[str] | None] = (),
    kind: Output | None = None,
) -> Iterator[Path]:
    """Write a folder whole or not at all.

    Yields a new, empty folder beside `out`. When the block ends it is flushed to the disk and renamed to `out`; when
    the block raises anything at all, Ctrl-C included, it is removed and an older `out` is still there, untouched. What
    a process that was killed left behind is cleared away by the next that writes the same `out`.

    Args:
        out: The folder to write. Missing parents are made.
        force: Replace an existing `out`, if it is empty or of the same kind. The two are exchanged in one step
            and the old one is removed afterwards. A symbolic link is replaced, not what it points to.
        inputs: All that the block reads. `out` has to be apart from it.
        kind: What is written; it is signed where it has no manifest. None for what is never replaced.

    Yields:
        The folder to write into.

    Raises:
        ElasticError: `out` may not be written (see `outputs.check_output`), the place cannot be, or the disk is full.
    """
    path = absolute(out)
    with explained(path):
        check_output(path, force, *inputs, kind=kind)
        with _folders_above(path), temporary(path) as tmp:
            tmp.mkdir()  # not tempfile.mkdtemp: the result must have the permissions of the user's umask, not 0700
            yield tmp
            if kind is not None and kind.manifest == MARK:
                sign(tmp, kind)
            flush(tmp)
            check_output(path, force, *inputs, kind=kind)  # something may have appeared while the block ran
            _put_new(tmp, path, force)


@contextmanager
def filled_dir(out: str | os.PathLike[str], kind: Output, force: bool = False) -> Iterator[Path]:
    """Write a folder in its place, for what has its own path inside; half of it may stay when the block raises.

    An older one stands aside while the block runs. It is removed when the block ends, and back when it raises, or when
    the process was killed and the next writes the same `out`.

    Args:
        out: The folder to write. One that is there and empty is filled.
        kind: What is written.
        force: Replace an existing `out`, see `atomic_dir`.

    Yields:
        The folder to write into, signed. What is in it is listed when the block ends or raises.

    Raises:
        ElasticError: See `atomic_dir`.
    """
    path = absolute(out)
    clear_leftovers(path)
    with ExitStack() as held:
        with explained(path):
            made = not is_empty(path)
            if made:
                check_output(path, force, kind=kind)
                held.enter_context(_folders_above(path))
                held.enter_context(in_place_of(path))
                path.mkdir()
            try:
                sign(path, kind, whole=False)
            except BaseException:
                (path / MARK).unlink(missing_ok=True)
                if made:
                    path.rmdir()
                raise
        try:
            yield path
        finally:
            with suppress(OSError):
                sign(path, kind)


def atomic_write(path: str | os.PathLike[str], content: str | bytes, replace: bool = True) -> None:
    """Write one file whole or not at all.

    Args:
        path: The file to write. Missing parents are made.
        content: Text (written as UTF-8 with the newlines it has) or bytes.
        replace: Whether an older one may be replaced. What a command names itself goes through `check_file` before.

    Raises:
        ElasticError: It exists and may not, the place cannot be written, or the disk is full.
    """
    with prepared(path, content, replace):
        pass


@contextmanager
def prepared(path: str | os.PathLike[str], content: str | bytes, replace: bool = True) -> Iterator[None]:
    """Write one file beside its place, and put it there when the block ends; nothing is changed where it raises.

    Of several files all are on the disk before the first is put in its place, which is that of the innermost block.

    Args:
        path, content, replace: See `atomic_write`.

    Raises:
        ElasticError: See `atomic_write`.
    """
    path = absolute(path)
    if os.path.isdir(path):  # pathlib's raises where the name is too long
        raise ElasticError("is a folder; name a file", path)
    with ExitStack() as held:
        with explained(path):
            held.enter_context(_folders_above(path))
            tmp = held.enter_context(temporary(path))
            with open(tmp, "xb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
        yield
        with explained(path):
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


@contextmanager
def _folders_above(path: Path) -> Iterator[None]:
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


def flush(root: Path) -> None:
    """Flush a folder with all that is in it to the disk."""
    for folder, _, files in os.walk(root):
        for name in files:
            if not os.path.islink(os.path.join(folder, name)):
                sync(Path(folder, name))
        sync(Path(folder))
