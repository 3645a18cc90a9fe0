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
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ElasticError
from .renames import clear_leftovers, put_in_place, sync, temporary

__all__ = [
    "atomic_dir",
    "atomic_write",
    "check_apart",
    "explain_os_error",
    "read_json",
    "read_plain_yaml",
    "read_text",
    "read_yaml",
    "whole_number",
]

# Files come from anywhere: what a small one unfolds to, and how much of a large one is read, has a limit.
_TEXT_BYTES = 64 * 2**20
_YAML_BYTES = 2**18
_YAML_VALUES = 100_000
#: What an interpolation counts for: each of n, three to a value, may hold three of the next, which makes 3^(n/3).
_INTERPOLATION = 5_000
_DIGITS = 20

_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNWRITABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY, errno.EXDEV,
}  # fmt: skip
#: Names that `renames` makes up; messages have the target's own.
_MADE_UP = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(?:lock|tmp|old)", re.DOTALL)


def explain_os_error(exc: BaseException, path: Path) -> ElasticError | None:
    """Word a full disk or an unwritable place as one line.

    Args:
        exc: What was raised while something was written.
        path: The output that was being written.

    Returns:
        The error to raise instead, or None when `exc` is something else (a bug, say) and must keep its traceback.
    """
    path = _target(path)
    # safetensors wraps the operating system's error in its own type and leaves only the text.
    if getattr(exc, "errno", None) in _FULL or "No space left on device" in str(exc):
        return ElasticError(f"{path}: no space left on the disk; nothing was written")
    if not isinstance(exc, OSError):
        return None
    if exc.errno == errno.EFBIG:
        return ElasticError(
            f"{path}: a file is larger than the file system, or `ulimit -f`, allows; nothing was written"
        )
    if exc.errno in _UNWRITABLE:
        named = Path(os.fsdecode(exc.filename)) if isinstance(exc.filename, (str, bytes)) else path
        where = _target(named)
        if where != named:
            where = where.parent
        elif where != path and where not in path.parents:
            return ElasticError(f"{where}: cannot be read ({exc.strerror})")  # something that is copied along
        return ElasticError(f"{path}: cannot be written ({exc.strerror}: {where})")
    return None


def _target(path: Path) -> Path:
    """The folder or file that is being written, where a path leads to or into a temporary name for it."""
    for i, part in enumerate(path.parts):
        found = _MADE_UP.fullmatch(part)
        if found:
            return Path(*path.parts[:i], found[1])
    return path


def check_apart(out: str | os.PathLike[str], source: str | os.PathLike[str]) -> None:
    """Refuse an output that lies inside of what is read for it, or around it. To replace the very folder is fine.

    Args:
        out: What is going to be written.
        source: The folder that is going to be read.

    Raises:
        ElasticError: One holds the other.
    """
    path = Path(os.path.abspath(out))
    # Where they really are: a way through links is no other place. The last link of `out` itself is what is replaced.
    here, there = Path(os.path.realpath(path.parent), path.name), Path(os.path.realpath(source))
    if there in here.parents:
        raise ElasticError(f"{path}: is inside {source}, which is read; name a folder elsewhere")
    if here in there.parents:
        raise ElasticError(f"{path}: holds {source}, which is read; name another folder")


@contextmanager
def atomic_dir(out: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """Write a folder whole or not at all.

    Yields a new, empty folder beside `out`. When the block ends it is flushed to the disk and renamed to `out`; when
    the block raises anything at all, Ctrl-C included, it is removed and an older `out` is still there, untouched. What
    a process that was killed left behind is cleared away by the next that writes the same `out`.

    Args:
        out: The folder to write. Missing parents are made.
        force: Replace an existing `out`. The two are exchanged in one step and the old one is removed afterwards, so
            `out` may be the very folder that the block reads from. A symbolic link is replaced, not what it points to.

    Yields:
        The folder to write into.

    Raises:
        ElasticError: `out` exists and `force` is False, the place cannot be written, or the disk is full.
    """
    path = Path(os.path.abspath(out))
    with _told(path):
        clear_leftovers(path)
        _refuse(path, force)
        _make_parent(path)
        with temporary(path) as tmp:
            tmp.mkdir()  # not tempfile.mkdtemp: the result must have the permissions of the user's umask, not 0700
            yield tmp
            _sync_tree(tmp)
            _refuse(path, force)  # it may have appeared while the block ran
            try:
                put_in_place(tmp, path, replace=force)
            except FileExistsError:
                raise ElasticError(f"{path}: another process has written it just now; it is left as it is") from None


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write one file whole or not at all, replacing an older one.

    Args:
        path: The file to write. Missing parents are made.
        content: Text (written as UTF-8 with the newlines it has) or bytes.

    Raises:
        ElasticError: The place cannot be written, or the disk is full.
    """
    path = Path(os.path.abspath(path))
    if os.path.isdir(path):  # pathlib's raises where the name is too long
        raise ElasticError(f"{path}: is a folder; name a file")
    with _told(path):
        _make_parent(path)
        with temporary(path) as tmp:
            with open(tmp, "xb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(tmp, path)
            sync(path.parent)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file strictly: no duplicate keys, no NaN, no number that overflows to infinity or 64 bits by far.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        ElasticError: The file is missing, unreadable or not strict JSON; the message names the file and the place.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ElasticError(f"{path}: no such file") from None
    except UnicodeDecodeError as exc:
        raise ElasticError(f"{path}: not a JSON file (byte {exc.start} is not UTF-8)") from None
    except OSError as exc:
        raise ElasticError(f"{path}: cannot be read ({exc.strerror})") from None
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=whole_number
        )
    except json.JSONDecodeError as exc:
        raise ElasticError(f"{path}: not valid JSON (line {exc.lineno}, column {exc.colno}: {exc.msg})") from None
    except RecursionError:
        raise ElasticError(f"{path}: not valid JSON (nested too deeply)") from None
    except ValueError as exc:  # ours below
        raise ElasticError(f"{path}: not valid JSON ({exc})") from None


def read_text(path: str | os.PathLike[str], most: int = _TEXT_BYTES) -> str:
    """Read a UTF-8 file that has to be small.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        ElasticError: It is larger.
        OSError: It cannot be read.
        UnicodeDecodeError: It is not UTF-8.
    """
    with open(path, "rb") as file:
        content = file.read(most + 1)  # not by its size: a pipe and a device have none
    if len(content) > most:
        raise ElasticError(f"{path}: larger than {most >> 10} KiB, which no such file is")
    return content.decode("utf-8")


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file as OmegaConf does: plain values, no tag that names code, interpolations resolved.

    Aliases and interpolations are counted before they are written out: a dozen lines of them can stand for terabytes.

    Args:
        path: The file.

    Raises:
        ValueError: It is not YAML, or would unfold to too much.
        Exception: What PyYAML and OmegaConf raise, which share no base class.
    """
    import io

    import yaml
    from omegaconf import OmegaConf

    text = read_text(path, _YAML_BYTES)
    if _unfolded(yaml.compose(text, Loader=yaml.SafeLoader), {}) > _YAML_VALUES:
        raise ValueError("its aliases and interpolations may stand for too much")
    return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=True)


def whole_number(text: str) -> int:
    """An integer of JSON; one of thousands of digits has no `str`, and none of ours is near.

    Raises:
        ValueError: It is longer than any size.
    """
    if len(text) > _DIGITS:
        raise ValueError(f"the number {text[:_DIGITS]}… is too large")
    return int(text)


def read_plain_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file that has nothing of OmegaConf's: plain values, no tag that names code, aliases counted.

    Args:
        path: The file.

    Raises:
        ElasticError: It is larger than any such file, or none.
        ValueError: It would unfold to too much.
        OSError, UnicodeDecodeError: See `read_text`.
        RecursionError, yaml.YAMLError: It is not YAML.
    """
    import yaml

    text = read_text(path, _YAML_BYTES)
    if _unfolded(yaml.compose(text, Loader=yaml.SafeLoader), {}) > _YAML_VALUES:
        raise ValueError("its aliases may stand for too much")
    return yaml.safe_load(text)


def _unfolded(node: Any, known: dict[int, int]) -> int:
    """How many values a YAML node stands for when each alias is written out."""
    if node is None or isinstance(node.value, str):
        return 1 + (_INTERPOLATION * node.value.count("${") if node is not None else 0)
    if id(node) not in known:
        known[id(node)] = -1
        inner = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in inner)
    if known[id(node)] < 0:
        raise ValueError("an anchor holds an alias of itself")
    return known[id(node)]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the operating system that the user can mend, in one line."""
    try:
        yield
    except Exception as exc:
        told = explain_os_error(exc, path)
        if told is not None:
            raise told from exc
        raise


def _refuse(path: Path, force: bool) -> None:
    exists = _exists(path)
    if exists and not force:
        raise ElasticError(f"{path}: already exists; --force replaces it")
    # --force on a folder that holds the user's work is a typo ("--out . --force"), not a wish.
    for kept, word in ((os.getcwd(), "the current folder"), (os.path.expanduser("~"), "the home folder")):
        if path == Path(kept) or path in Path(kept).parents:
            raise ElasticError(f"{path}: holds {word} and is never replaced; name a new folder")
    if exists and os.path.ismount(path):
        raise ElasticError(f"{path}: is a mount point, which cannot be replaced; name a folder inside it")


def _exists(path: Path) -> bool:
    """Whether anything is there; unlike `os.path.lexists` not silent about a name that cannot be."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as exc:  # pathlib's word for a file where a folder is needed
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), exc.filename) from None


def _sync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            if not os.path.islink(os.path.join(folder, name)):
                sync(Path(folder, name))
        sync(Path(folder))


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
