# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Rendering a chat template: a program in Jinja from elsewhere. Called in a process apart alone (`io.apart`).

It runs in Jinja's immutable sandbox, as in transformers: it reaches no file, no module and no attribute of Python's.
How long it computes and what it holds, the process bounds; how much it says is bounded here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from nemo_elastic.errors import ElasticError

__all__ = ["render"]

#: characters of a rendered text
_CHARACTERS = 2**26


class _Refused(Exception):
    """A template says itself that it does not take these messages, or says too much."""


def render(text: str, names: Mapping[str, Any] | None) -> str | None:
    """What a template makes of some names.

    Args:
        text: Jinja.
        names: Messages and special tokens; None to see whether it is a template at all.

    Raises:
        ElasticError: it is no template, or it refuses, fails, or its text does not end.
    """
    try:
        template = _compiled(text)
        if names is None:
            return None
        pieces, size = [], 0
        for piece in template.generate(**names):
            size += len(piece)
            if size > _CHARACTERS:
                raise _Refused("its text does not end")
            pieces.append(piece)
        return "".join(pieces)
    except MemoryError:
        raise
    except Exception as exc:  # a template from elsewhere can raise whatever an expression, or compiling one, can
        raise ElasticError(str(exc) or type(exc).__name__) from None


@lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    """A template in the environment that transformers renders chat templates in."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks for training what an assistant said; here it is its content."""

        tags: ClassVar[set[str]] = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = _today
    return made.from_string(text)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is: Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> Any:
    raise _Refused(str(message))


def _today(format: str) -> str:
    """The date, which some templates tell the model."""
    return time.strftime(format)
