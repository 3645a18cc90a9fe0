# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of modules in a quantised folder's files: names, shell patterns, and regular expressions after `re:`.

They come from anywhere, and Python's regular expressions have no bound to the time that they take: those that repeat
what repeats are refused, and so are long ones and long lists.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

from nemo_elastic.errors import bad

__all__ = ["Modules", "anywhere", "modules_in"]

REGEX = "re:"
#: of patterns that are no names: how many, characters in one, and what repeats in one
_MOST, _LONGEST, _REPEATS = 256, 400, 3
_OURS = re.compile(r"re:\(backbone\|model\)\\\.(.+)\$")


@dataclass(frozen=True)
class Modules:
    """Modules of a list.

    Attributes:
        names: those that it names.
        expressions: that others match.
    """

    names: frozenset[str]
    expressions: tuple[re.Pattern[str], ...] = ()

    def __contains__(self, module: str) -> bool:
        # transformers has the layers of a Nemotron-H in `model`
        other = "model." + module.removeprefix("backbone.")
        return module in self.names or any(e.match(module) or e.match(other) for e in self.expressions)


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
        ElasticError: no list of texts, or patterns that are none or may take any time.
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
        elif pattern.startswith(REGEX) or "*" in pattern:
            patterns.append(pattern)
        else:
            names.add("backbone." + pattern.removeprefix("model.") if pattern.startswith("model.") else pattern)
    if len(patterns) > _MOST:
        raise bad(where, len(patterns), f"at most {_MOST} patterns beside names")
    return Modules(frozenset(names), tuple(_compiled(p, where) for p in patterns))


def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    text = pattern.removeprefix(REGEX)
    if len(text) > _LONGEST or len(re.findall(r"[*+{]", text)) > _REPEATS or re.search(r"\)[*+{]", text):
        allowed = f"a pattern of at most {_LONGEST} characters that repeats {_REPEATS} times, and no group"
        raise bad(where, pattern, allowed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets that a later Python may read in another way
            return re.compile(text if pattern.startswith(REGEX) else translate(text))
    except (re.error, OverflowError, RecursionError) as error:
        raise bad(where, pattern, f"a regular expression ({error})") from None
