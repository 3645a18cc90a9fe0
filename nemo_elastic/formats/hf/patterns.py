# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of modules in a quantised folder's files: names, shell patterns, and regular expressions after `re:`.

They come from anywhere, and Python's regular expressions have no bound to the time that they take. So of regular
expressions those are read that are shell patterns in other words: a shell pattern is never tried in two ways.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import translate
from itertools import product
from typing import Any

from nemo_elastic.errors import bad

__all__ = ["Modules", "anywhere", "modules_in"]

REGEX = "re:"
#: characters of all shell patterns of a list, and shell patterns for one regular expression
_LONGEST, _MOST = 2**13, 256
_OURS = re.compile(r"re:\(backbone\|model\)\\\.(.+)\$")
#: choices in a regular expression, and numbers of layers and experts as such choices
_CHOICES = re.compile(r"\((?:\?:)?([^()]*)\)")
_NUMBER, _NUMBERS = re.compile(r"(?:\\d|\[0-9\])\+"), r"(\\d|\\d\\d|\\d\\d\\d)"
#: everything else in it, and what a shell pattern has instead
_PIECE = re.compile(r"\\[d.-]|\[\^?[\w.-]+\]|\.[*+]?|[\w-]")
_SHELL = {".": "?", ".*": "*", ".+": "?*", r"\d": "[0-9]"}
_MEANT = r"an expression of names, ., .*, .+, \d+, [a-z], (a|b), ^ and $"


@dataclass(frozen=True)
class Modules:
    """Modules of a list.

    Attributes:
        names: those that it names.
        others: what all others match; None where there are none.
    """

    names: frozenset[str]
    others: re.Pattern[str] | None = None

    def __contains__(self, module: str) -> bool:
        # transformers has the layers of a Nemotron-H in `model`
        there = "model." + module.removeprefix("backbone.")
        return module in self.names or (self.others is not None and any(map(self.others.match, (module, there))))


def anywhere(module: str) -> str:
    """A module by a name that fits transformers, too, where the layers of a Nemotron-H are in `model`."""
    inside = module.removeprefix("backbone.")
    return module if inside == module else rf"re:(backbone|model)\.{re.escape(inside)}$"


def modules_in(given: Any, where: str) -> Modules:
    """Read a list of modules.

    Args:
        given: a list, or None for an empty one.
        where: it stands, for errors.

    Raises:
        ElasticError: no list of texts, or other patterns than those that are read.
    """
    if given is None:
        return Modules(frozenset())
    if not isinstance(given, list) or not all(isinstance(p, str) for p in given):
        raise bad(where, given, "a list of modules")
    names, patterns = set(), []
    for pattern in dict.fromkeys(given):
        own = _OURS.fullmatch(pattern)
        inside = re.sub(r"\\(.)", r"\1", own[1]) if own else ""
        if own and re.escape(inside) == own[1]:  # as `anywhere` gives it: a name
            names.add(f"backbone.{inside}")
        elif pattern.startswith(REGEX):
            try:
                patterns += _shell(pattern.removeprefix(REGEX))
            except ValueError:
                raise bad(where, pattern, _MEANT) from None
        elif "*" in pattern:
            patterns.append(pattern)
        else:
            names.add("backbone." + pattern.removeprefix("model.") if pattern.startswith("model.") else pattern)
    if (length := sum(map(len, patterns))) > _LONGEST:
        raise bad(where, length, f"patterns of {_LONGEST} characters in all, beside names")
    return Modules(frozenset(names), re.compile("|".join(map(translate, patterns))) if patterns else None)


def _shell(expression: str) -> Iterator[str]:
    """The shell patterns that together match what an expression matches.

    Raises:
        ValueError: it is none of those that are read.
    """
    text = _NUMBER.sub(_NUMBERS, expression)
    parts = [part.split("|") if i % 2 else [part] for i, part in enumerate(_CHOICES.split(text))]
    if len(text) > _LONGEST or math.prod(map(len, parts)) > _MOST:
        raise ValueError
    for chosen in product(*parts):
        for own in "".join(chosen).split("|"):
            inside = own.removeprefix("^").removesuffix("$")
            pieces: list[str] = _PIECE.findall(inside)
            if "".join(pieces) != inside:
                raise ValueError
            # as in compressed-tensors, anything may follow an expression
            end = "" if own.endswith("$") else "*"
            yield "".join(_SHELL.get(p, p.removeprefix("\\").replace("[^", "[!")) for p in pieces) + end
