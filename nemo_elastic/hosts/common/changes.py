# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of a recipe by their dotted names, and every one that has another value than before.

A recipe consists of NeMo-Run's configs, or of dataclasses as Megatron-Bridge's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["Changes", "made_by", "settings"]

_MISSING = object()
#: settings that are one line, however many values they have
BLOCK = ("model.elastic", "optimizer_config_override_provider")


def made_by(value: Any) -> Any:
    """The class or function of a `run.Config`, None for anything else."""
    return getattr(value, "__fn_or_cls__", None)


def settings(value: Any, name: str = "") -> dict[str, Any]:
    """Every setting of a recipe by its dotted name: plain values as they are, classes and functions by their names.

    An element of a list goes by its class, `trainer.callbacks[TimingCallback]`, where the classes differ; the list's
    own value is then their order.
    """
    made = _class_of(value)
    if made is not None:
        value = value.__arguments__ if made_by(value) else _fields(value)
    out = {} if made is None or not name else {name: _called(made)}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            out |= settings(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        classes = [_called(_class_of(v)) for v in value if _class_of(v) is not None]
        if not value or len(set(classes)) < len(value):
            for i, inner in enumerate(value):
                out |= settings(inner, f"{name}[{i}]")
        else:
            for key, inner in zip(classes, value, strict=True):
                out |= settings(inner, f"{name}[{key}]")
                del out[f"{name}[{key}]"]
            out[name] = ", ".join(classes)
    elif value is None or isinstance(value, (bool, int, float, str)):
        out[name] = value
    else:
        out[name] = _called(value)
    return out


def _class_of(value: Any) -> Any:
    """The class of something with settings of its own, None for a plain value."""
    return made_by(value) or (type(value) if is_dataclass(value) and not isinstance(value, type) else None)


def _fields(value: Any) -> dict[str, Any]:
    names = (field.name for field in fields(value) if not field.name.startswith("_"))
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _called(value: Any) -> str:
    return getattr(value, "__qualname__", None) or str(value)


class Changes:
    """A recipe as it was, to report what became of it.

    Args:
        recipe: as it is now.

    Attributes:
        reasons: setting -> why it gets another value.
        notes: what the settings alone do not show, a line each.
        warnings: what makes no sense in it, a line each.
    """

    def __init__(self, recipe: Any) -> None:
        self._before = settings(recipe)
        self.reasons: dict[str, str] = {}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def lines(self, recipe: Any) -> list[str]:
        """A line for every setting that has another value in `recipe`; one for all settings of what was removed."""
        before, after = self._before, settings(recipe)
        lines: dict[str, str] = {}
        for name in sorted(before.keys() | after.keys()):
            if before.get(name, _MISSING) == after.get(name, _MISSING):
                continue
            old = _short(before[name]) if name in before else "not set"
            block = next((known for known in BLOCK if name == known or name.startswith(f"{known}.")), None)
            if block:
                lines.setdefault(block, f"{block}: {old} -> the elastic block")
            elif name in after:
                reason = f" ({self.reasons[name]})" if name in self.reasons else ""
                lines[name] = f"{name}: {old} -> {_short(after[name])}{reason}"
            elif not any(name[: part.start()] in lines for part in re.finditer(r"[.\[]", name)):
                lines[name] = f"{name}: {old} -> left out"
        return list(lines.values())

    def text(self, recipe: Any, by: str = "apply_elastic") -> str:
        """What `by` has made of the recipe, in lines."""
        lines = [f"{by} changes the recipe:", *(f"  {line}" for line in (*self.lines(recipe), *self.notes))]
        if self.warnings:
            lines += [f"{by} warns:", *(f"  {line}" for line in self.warnings)]
        return "\n".join(lines)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
