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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .bounded import open_regular, read_bytes, read_text
from .errors import ElasticError, is_environment, shown
from .outputs import absolute, check_apart, check_file, check_output, check_room, is_empty, sign
from .renames import clear_leftovers, put_in_place, sync, temporary

__all__ = [
    "atomic_dir",
    "atomic_write",
    "check_apart",
    "check_file",
    "check_output",
    "check_room",
    "explain_os_error",
    "explained",
    "filled_dir",
    "flush",
    "open_regular",
    "read_bytes",
    "read_json",
    "read_plain_yaml",
    "read_text",
    "read_yaml",
    "resolved",
    "sign",
    "whole_number",
]

# Files come from anywhere: what a small one unfolds to, and how much of a large one is read, has a limit.
_YAML_BYTES = 2**18
_YAML_VALUES = 100_000
#: What an interpolation counts for: each of n, three to a value, may hold three of the next, which makes 3^(n/3).
_INTERPOLATION = 5_000
_DIGITS = 20
_FULL = {errno.ENOSPC, errno.EDQUOT}
#: What libraries leave of the operating system's error when they raise their own: safetensors its text, torch's
#: writer of archives only that fewer bytes arrived than it gave, megatron-core the text of a process of its own.
_FULL_TEXT = ("No space left on device", "Disk quota exceeded")
_LARGE_TEXT = ("File too large",)
_SHORT_TEXT = ("PytorchStreamWriter failed writing", "unexpected pos ")
#: Names that `renames` makes up; messages have the target's own.
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
        return ElasticError(
            f"{path}: a file is larger than the file system, or `ulimit -f`, allows; nothing was written"
        )
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
        raise ElasticError("no such file", path) from None
    except UnicodeDecodeError as exc:
        raise ElasticError(f"not a JSON file (byte {exc.start} is not UTF-8)", path) from None
    except OSError as exc:
        raise ElasticError(f"cannot be read ({exc.strerror})", path) from None
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=whole_number
        )
    except json.JSONDecodeError as exc:
        raise ElasticError(f"not valid JSON (line {exc.lineno}, column {exc.colno}: {exc.msg})", path) from None
    except RecursionError:
        raise ElasticError("not valid JSON (nested too deeply)", path) from None
    except ValueError as exc:  # ours below
        raise ElasticError(f"not valid JSON ({exc})", path) from None


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file as OmegaConf does: plain values, no tag that names code, interpolations resolved.

    Aliases and interpolations are counted before they are written out: a dozen lines of them can stand for terabytes.

    Args:
        path: The file.

    Raises:
        ValueError: It is not YAML, would unfold to too much, or has an interpolation that `resolved` refuses.
        Exception: What PyYAML and OmegaConf raise, which share no base class.
    """
    import io

    import yaml
    from omegaconf import OmegaConf

    text = read_text(path, _YAML_BYTES)
    if _unfolded(yaml.compose(text, Loader=yaml.SafeLoader), {}) > _YAML_VALUES:
        raise ValueError("its aliases and interpolations may stand for too much")
    return resolved(OmegaConf.load(io.StringIO(text)))


def resolved(data: Any) -> Any:
    """Plain values of a config of OmegaConf's, with its interpolations of other values in it: `${a.b}`.

    An interpolation that calls a resolver is refused: `${oc.env:NAME}` would write the environment, passwords
    included, into whatever this program writes of the config, and other libraries register functions of any kind.

    Args:
        data: A config, or what one is made of.

    Raises:
        ValueError: It has an interpolation that calls a resolver.
        Exception: What OmegaConf raises.
    """
    from omegaconf import OmegaConf

    config = data if OmegaConf.is_config(data) else OmegaConf.create(data)
    for text in _texts(OmegaConf.to_container(config, resolve=False)):
        if _calls_resolver(text):
            raise _more_than_a_value(text)
    plain = OmegaConf.to_container(config, resolve=True)
    for text in _texts(plain):
        if "${" in text:  # escaped, or put together of pieces: whoever reads the values again would resolve it
            raise _more_than_a_value(text)
    return plain


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts(part)


def _calls_resolver(text: str) -> bool:
    """Whether a colon stands in an interpolation, nested ones included; names of values have none."""
    depth = 0
    for mark in re.findall(r"\$\{|\}|:", text):
        if mark == ":" and depth:
            return True
        depth = depth + 1 if mark == "${" else max(0, depth - 1) if mark == "}" else depth
    return False


def _more_than_a_value(text: str) -> ValueError:
    return ValueError(f"{shown(text)} asks for more than another value beside it, which is all that it gets")


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
