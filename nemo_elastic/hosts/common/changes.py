# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of a recipe by their dotted names, and every one that has another value than before.

A recipe is of NeMo-Run's configs, which name what they make, or of dataclasses, as Megatron-Bridge's are.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["Changes", "made_by", "settings"]


class _Absent:
    def __str__(self) -> str:
        return "not set"


#: of a setting that a recipe has not
ABSENT = _Absent()
#: settings that are one line, however many values they have
BLOCK = ("model.elastic", "optimizer_config_override_provider")


class MadeName(str):
    """The name of the class of something that has settings of its own, as the setting that it is itself.

    Attributes:
        made: what a `run.Config` makes, with defaults; None for a dataclass, all of whose settings are there.
    """

    made: Any


def made_by(value: Any) -> Any:
    """The class or function of a `run.Config`, None for anything else."""
    return getattr(value, "__fn_or_cls__", None)


def settings(value: Any) -> dict[str, Any]:
    """Every setting of a recipe by its dotted name: plain values as they are, classes and functions by their names.

    What stands in a list goes by its class, `trainer.callbacks[TimingCallback]`, where each has one of its own; the
    list itself is then the order of the classes.
    """
    return dict(_settings(value, ""))


def _settings(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    made = _class_of(value)
    if made is not None:
        called = MadeName(_called(made))
        called.made = made_by(value)
        yield name, called
        value = value.__arguments__ if made_by(value) else _fields(value)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _settings(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        classes = [None if _class_of(v) is None else _called(_class_of(v)) for v in value]
        named = None not in classes and len(set(classes)) == len(classes)
        if named and classes:
            yield name, ", ".join(map(str, classes))
        for key, inner in zip(classes if named else range(len(value)), value, strict=True):
            yield from _settings(inner, f"{name}[{key}]")
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield name, value
    else:
        yield name, _called(value)


def _class_of(value: Any) -> Any:
    """What has made something that has settings of its own, None for a plain value."""
    return made_by(value) or (type(value) if is_dataclass(value) and not isinstance(value, type) else None)


def _fields(value: Any) -> dict[str, Any]:
    names = (field.name for field in fields(value) if not field.name.startswith("_"))
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _called(value: Any) -> str:
    return getattr(value, "__qualname__", None) or str(value)


class Changes:
    """What a recipe was, to be reported with what has become of it.

    Args:
        recipe: as it is now.

    Attributes:
        reasons: why a setting that a user knows gets another value.
        notes: what the settings alone do not show, a line each.
        warnings: what makes no sense in it, a line each.
    """

    def __init__(self, recipe: Any) -> None:
        self._before = settings(recipe)
        self.reasons: dict[str, str] = {}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def lines(self, recipe: Any) -> list[str]:
        """A line for every setting that has another value in `recipe`.

        Of something that is gone its own line stands for all its settings.
        """
        before, after = self._before, settings(recipe)
        lines: dict[str, str] = {}
        for name in sorted(before.keys() | after.keys()):
            old, new = _value(name, before), _value(name, after)
            # of a class in a list the list's own line tells
            told = isinstance(new, MadeName) and name.endswith(f"[{new}]")
            if old == new or told or _lay_in(name, before, after):
                continue
            block = next((known for known in BLOCK if name == known or name.startswith(f"{known}.")), None)
            if block:
                lines[block] = f"{block}: {_short(_value(block, before))} -> the elastic block"
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


def _value(name: str, held: Mapping[str, Any]) -> Any:
    """A setting; where it is not written down, the default of what is made with it."""
    if name in held:
        return held[name]
    owner, _, argument = name.rpartition(".")
    try:
        default = inspect.signature(getattr(held.get(owner), "made", None)).parameters[argument].default
    except (KeyError, TypeError, ValueError):
        return ABSENT
    plain = default is None or isinstance(default, (bool, int, float, str))
    return default if plain else ABSENT


def _lay_in(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a setting that is gone lay in something that is gone."""
    if name in after:
        return False
    around = [name[: m.start()] for m in re.finditer(r"[.\[]", name)]
    return any(isinstance(before.get(a), MadeName) and not isinstance(after.get(a), MadeName) for a in around)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
