# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of a recipe by their dotted names, and every one that has another value than before."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fiddle

__all__ = ["Changes", "settings"]

#: why a setting that a user knows gets another value
REASONS = {
    "optim.lr_mult": "of the router",
    "resume.restore_config": "the teacher is the start",
    "trainer.strategy.ddp.check_for_nan_in_grad": "elastic.nonfinite looks at them",
}
#: what is one line, however many values it has
WHOLE = {"model.elastic": "the elastic block"}


class MadeName(str):
    """The name of what a `run.Config` makes."""

    made: Callable[..., Any]


class _Absent:
    def __str__(self) -> str:
        return "not set"


_ABSENT = _Absent()


def settings(value: Any) -> dict[str, Any]:
    """Every setting of a recipe by its dotted name: plain values as they are, classes by their names.

    What stands in a list goes by its class, `trainer.callbacks[TimingCallback]`, where each has one of its own; the
    list itself is then the order of the classes.
    """
    return dict(_settings(value, ""))


def _settings(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, fiddle.Buildable):
        made = MadeName(_called(value.__fn_or_cls__))
        made.made = value.__fn_or_cls__
        yield name, made
        for key, inner in value.__arguments__.items():
            yield from _settings(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _settings(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        classes = [_called(v.__fn_or_cls__) if isinstance(v, fiddle.Buildable) else None for v in value]
        named = None not in classes and len(set(classes)) == len(classes)
        if named and classes:
            yield name, ", ".join(map(str, classes))
        for key, inner in zip(classes if named else range(len(value)), value, strict=True):
            yield from _settings(inner, f"{name}[{key}]")
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield name, value
    else:
        yield name, _called(value)


def _called(value: Any) -> str:
    return getattr(value, "__qualname__", None) or str(value)


class Changes:
    """What a recipe was, to be told with what has become of it. Nothing has to be noted for being told.

    Args:
        recipe: as it is now.

    Attributes:
        notes: what the settings alone do not show, a line each.
        warnings: what makes no sense in it, a line each.
    """

    def __init__(self, recipe: Any) -> None:
        self._before = settings(recipe)
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def lines(self, recipe: Any) -> list[str]:
        """A line for every setting that has another value in `recipe`.

        Of a `run.Config` that is gone its own line stands for all its settings.
        """
        before, after = self._before, settings(recipe)
        told: dict[str, str] = {}
        for name in sorted(before.keys() | after.keys()):
            whole = next((known for known in WHOLE if name == known or name.startswith(f"{known}.")), None)
            old, new = _value(name, before), _value(name, after)
            if old == new or _lay_in(name, before, after) or name.endswith(f"[{new}]"):  # the list's own line has that
                continue
            if whole:
                told[whole] = f"{whole}: not set -> {WHOLE[whole]}"
                continue
            reason = f" ({REASONS[name]})" if name in REASONS else ""
            gone = "left out" if new is _ABSENT else _short(new)
            told[name] = f"{name or 'recipe'}: {_short(old)} -> {gone}{reason}"
        return list(told.values())

    def text(self, recipe: Any, by: str = "apply_elastic") -> str:
        """What `by` has made of the recipe, in lines."""
        lines = [f"{by} changes the recipe:", *(f"  {line}" for line in (*self.lines(recipe), *self.notes))]
        if self.warnings:
            lines += [f"{by} warns:", *(f"  {line}" for line in self.warnings)]
        return "\n".join(lines)


def _value(name: str, held: Mapping[str, Any]) -> Any:
    """A setting; where it is not written down, the default of what is made with it."""
    if name in held:
        return held[name]
    owner, _, argument = name.rpartition(".")
    made = held.get(owner)
    if not isinstance(made, MadeName):
        return _ABSENT
    try:
        default = inspect.signature(made.made).parameters[argument].default
    except (KeyError, TypeError, ValueError):
        return _ABSENT
    plain = default is None or isinstance(default, (bool, int, float, str))
    return default if plain else _ABSENT


def _lay_in(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a setting that is gone lay in a `run.Config` that is gone."""
    if name in after:
        return False
    around = [name[: m.start()] for m in re.finditer(r"[.\[]", name)]
    return any(isinstance(before.get(a), MadeName) and not isinstance(after.get(a), MadeName) for a in around)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
