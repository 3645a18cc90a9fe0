# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of modules in a `quantization_config`: names, shell patterns, and regular expressions after `re:`.

Python's regular expressions may take exponential time on a folder from anywhere. So an expression is read as shell
patterns, which never backtrack; one that is none is refused.
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

#: characters of all shell patterns of a list, and shell patterns for one regular expression
_LONGEST, _MOST = 2**13, 256
#: choices in a regular expression, and numbers of layers and experts as such choices
_CHOICES = re.compile(r"\((?:\?:)?([^()]*)\)")
_NUMBER, _NUMBERS = re.compile(r"(?:\\d|\[0-9\])\+"), r"(\\d|\\d\\d|\\d\\d\\d)"
#: everything else in it, and the shell pattern for it
_PIECE = re.compile(r"\\[d.-]|\[\^?[\w.-]+\]|\.[*+]?|[\w-]")
_SHELL = {".": "?", ".*": "*", ".+": "?*", r"\d": "[0-9]"}


@dataclass(frozen=True)
class Modules:
    """Modules of a list: those with a name in it, and those that its patterns match (`others`)."""

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
    """Read a list of modules; None is an empty one. `where` is the field, for errors."""
    if not isinstance(given, list | None) or not all(isinstance(p, str) for p in given or ()):
        raise bad(where, given, "a list of modules")
    shell: list[str] = []
    for pattern in dict.fromkeys(given or ()):
        try:
            shell += _shell(pattern.removeprefix("re:")) if pattern.startswith("re:") else [pattern]
        except ValueError:
            meant = r"an expression of names, ., .*, .+, \d+, [a-z], (a|b), ^ and $"
            raise bad(where, pattern, meant) from None
    patterns = [p for p in shell if any(c in p for c in "*?[")]
    if (length := sum(map(len, patterns))) > _LONGEST:
        raise bad(where, length, f"patterns of {_LONGEST} characters in all, beside names")
    names = {re.sub(r"^model\.", "backbone.", p) for p in shell} - set(patterns)
    return Modules(frozenset(names), re.compile("|".join(map(translate, patterns))) if patterns else None)


def _shell(expression: str) -> Iterator[str]:
    """Shell patterns that together match the names that a regular expression matches; ValueError without any."""
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
            # compressed-tensors matches the start of a name
            end = "" if own.endswith("$") else "*"
            yield "".join(_SHELL.get(p, p.removeprefix("\\").replace("[^", "[!")) for p in pieces) + end
