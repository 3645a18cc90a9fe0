# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Reading JSON and YAML from anywhere: strict, and with a limit to what a small file unfolds to.

Whatever the user can fix comes out as one `ElasticError` line.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_elastic.errors import ElasticError, shown
from nemo_elastic.io.bounded import read_text

__all__ = ["plain_yaml", "read_json", "read_plain_yaml", "read_yaml", "resolved", "whole_number"]

# Files come from anywhere: what a small one unfolds to, and how much of a large one is read, has a limit.
_YAML_BYTES = 2**18
_YAML_VALUES = 100_000
#: What an interpolation counts for: each of n, three to a value, may hold three of the next, which makes 3^(n/3).
_INTERPOLATION = 5_000
_DIGITS = 20


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
    """Read a YAML file that the user has named, as OmegaConf does: plain values, no tag that names code.

    Interpolations are resolved; they and aliases are counted before they are written out: a dozen lines of them can
    stand for terabytes.

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
    return plain_yaml(read_text(path, _YAML_BYTES))


def plain_yaml(text: str) -> Any:
    """Read YAML as `read_plain_yaml` does.

    Raises:
        ValueError: It is longer than any such file, or would unfold to too much.
        RecursionError, yaml.YAMLError: It is not YAML.
    """
    import yaml

    if len(text) > _YAML_BYTES:
        raise ValueError("it is too long")
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
