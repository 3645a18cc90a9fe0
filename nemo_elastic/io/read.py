# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Reading what others wrote: regular files, up to a size; JSON strictly, YAML as values alone.

A pipe under the name of a file would keep a reader waiting for ever, and a device may have no end. Links are followed:
shared file systems and Hugging Face's cache are made of them.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from nemo_elastic.errors import ElasticError, shown

#: bytes of a file that is written for people or made of names: a tokenizer of a large vocabulary has half of it
SMALL = 64 * 2**20
#: of a YAML file: thousands of paths of data have half of it
_YAML_BYTES = 2**20
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Name = str | os.PathLike[str]


def open_regular(path: Name) -> BinaryIO:
    """Open a file for reading in bytes, without waiting, and only if it is a regular file.

    Raises:
        ElasticError: A pipe, a socket or a device.
        OSError: It is missing, a folder, or cannot be read.
    """
    _check_regular(path, os.stat(path).st_mode)  # first: to open a device can do something
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(path, os.fstat(handle).st_mode)  # it may have been replaced since
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _check_regular(path: Name, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise ElasticError(f"is {_KINDS.get(stat.S_IFMT(mode), 'no file')}; only regular files are read", path)


def read_bytes(path: Name, most: int = SMALL) -> bytes:
    """Read a file that has to be small, whole.

    Raises:
        ElasticError: It is no regular file, or has more than `most` bytes.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    if content is None or len(content) > most:  # files in /proc have size 0
        raise ElasticError(f"larger than {most >> 10} KiB, the most for such a file", path)
    return content


def read_text(path: Name, most: int = SMALL, encoding: str = "utf-8") -> str:
    """Read a text as `read_bytes`; newlines stay as they are.

    Raises:
        UnicodeDecodeError: It is not in that encoding: `utf-8`, or `utf-8-sig` where a byte order mark may begin it.
    """
    return read_bytes(path, most).decode(encoding)


# ------------------------------------------------------------------ JSON


def read_json(path: Name, strict: bool = True) -> Any:
    """Read a JSON file strictly: no duplicate keys, no NaN, no number that overflows to infinity.

    An integer may be larger than any size: transformers writes 10^30 where a tokenizer has no maximum.

    Args:
        path: The file.
        strict: False takes all of these: configs on the hub have an infinity.

    Raises:
        ElasticError: It is missing, unreadable or not strict JSON; the message names the file and the place.
    """
    try:
        hooks = {"object_pairs_hook": _unique, "parse_constant": _constant, "parse_float": _finite} if strict else {}
        return json.loads(read_text(path), **hooks)
    except ElasticError:
        raise
    except FileNotFoundError:
        why = "no such file"
    except OSError as exc:
        why = f"cannot be read ({exc.strerror})"
    except UnicodeDecodeError as exc:
        why = f"not a JSON file (byte {exc.start} is not UTF-8)"
    except json.JSONDecodeError as exc:
        why = f"not valid JSON (line {exc.lineno}, column {exc.colno}: {exc.msg})"
    except RecursionError:
        why = "not valid JSON (nested too deeply)"
    except ValueError as exc:  # ours below, and Python's for an integer of thousands of digits
        why = f"not valid JSON ({exc})"
    raise ElasticError(why, path)


def json_object(path: Name) -> Mapping[str, Any]:
    """The JSON object in a file; empty for other content."""
    try:
        value: Any = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):  # ElasticError is a ValueError
        return {}
    return value if isinstance(value, dict) else {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {key!r} appears twice in one object")
        unique[key] = value
    return unique


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value


# ------------------------------------------------------------------ YAML


def read_plain_yaml(path: Name) -> Any:
    """Read a YAML file that has nothing of OmegaConf's.

    Raises:
        ElasticError, OSError, UnicodeDecodeError: See `read_text`.
        ValueError, RecursionError: See `plain_yaml`.
    """
    return plain_yaml(read_text(path, _YAML_BYTES))


def plain_yaml(text: str) -> Any:
    """The values of a YAML text; no tag names code.

    Raises:
        ValueError: It is longer than any such file, or not YAML. The error quotes nothing of it: a link in a folder
            from elsewhere may lead to any file.
        RecursionError: It is nested too deeply.
    """
    import yaml

    if len(text) > _YAML_BYTES:
        raise ValueError("it is too long")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as exc:  # the latter for a date without a day
        mark = getattr(exc, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"not YAML of plain values{where}") from None


def read_yaml(path: Name) -> Any:
    """Read a YAML file that the user has named, as OmegaConf does, with its interpolations resolved.

    Raises:
        Exception: What `read_text`, PyYAML, OmegaConf and `resolved` raise, which share no base class.
    """
    from omegaconf import OmegaConf

    text = read_text(path, _YAML_BYTES)
    try:
        return resolved(OmegaConf.load(io.StringIO(text)))
    except RecursionError:
        raise ValueError("nested too deeply, or an anchor contains an alias of itself") from None


def resolved(data: Any) -> Any:
    """Plain values of a config of OmegaConf's, with its interpolations of other values in it: `${a.b}`.

    An interpolation that calls a resolver is refused: `${oc.env:NAME}` would write the environment, passwords
    included, into whatever this program writes of the config, and other libraries register functions of any kind.

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
    return ValueError(f"{shown(text)} is not a plain reference to another value, the only interpolation that is read")
