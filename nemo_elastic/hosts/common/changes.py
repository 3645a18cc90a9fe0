# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What `apply_elastic` has made of a recipe, reported setting by setting: nothing has to be noted for that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ABSENT", "Changes", "MadeName"]


class _Absent:
    def __str__(self) -> str:
        return "not set"


#: of a setting that a recipe has not
ABSENT = _Absent()


class MadeName(str):
    """The name of the class of something that has settings of its own, as the setting that it is itself."""


class Changes:
    """What a recipe was, to be reported with what has become of it. A host says how its recipes are read.

    Args:
        recipe: as it is now.

    Attributes:
        settings: gives every setting of a recipe by its dotted name: plain values as they are, the rest by their
            names, a `MadeName` where it has settings of its own.
        reasons: why a setting that a user knows gets another value.
        whole: what is one line, however many values it has, and what that says.
        notes: what the settings alone do not show, a line each.
        warnings: what makes no sense in it, a line each.
    """

    settings: Callable[[Any], dict[str, Any]]
    reasons: Mapping[str, str] = {}
    whole: Mapping[str, str] = {}

    def __init__(self, recipe: Any) -> None:
        self._before = self.settings(recipe)
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def value(self, name: str, held: Mapping[str, Any]) -> Any:
        """A setting of a recipe; what it is where it is not written down."""
        return held.get(name, ABSENT)

    def lines(self, recipe: Any) -> list[str]:
        """A line for every setting that has another value in `recipe`.

        Of something that is gone its own line stands for all its settings.
        """
        before, after = self._before, self.settings(recipe)
        lines: dict[str, str] = {}
        for name in sorted(before.keys() | after.keys()):
            whole = next((known for known in self.whole if name == known or name.startswith(f"{known}.")), None)
            old, new = self.value(name, before), self.value(name, after)
            # of a class in a list the list's own line tells
            told = isinstance(new, MadeName) and name.endswith(f"[{new}]")
            if old == new or told or self._lay_in(name, before, after):
                continue
            if whole:
                lines[whole] = f"{whole}: not set -> {self.whole[whole]}"
                continue
            reason = f" ({self.reasons[name]})" if name in self.reasons else ""
            gone = "left out" if new is ABSENT else _short(new)
            lines[name] = f"{name or 'recipe'}: {_short(old)} -> {gone}{reason}"
        return list(lines.values())

    def text(self, recipe: Any, by: str = "apply_elastic") -> str:
        """What `by` has made of the recipe, in lines."""
        lines = [f"{by} changes the recipe:", *(f"  {line}" for line in (*self.lines(recipe), *self.notes))]
        if self.warnings:
            lines += [f"{by} warns:", *(f"  {line}" for line in self.warnings)]
        return "\n".join(lines)

    def _lay_in(self, name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
        """Whether a setting that is gone lay in something that is gone."""
        if name in after:
            return False
        around = [name[: m.start()] for m in re.finditer(r"[.\[]", name)]
        return any(isinstance(before.get(a), MadeName) and not isinstance(after.get(a), MadeName) for a in around)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
