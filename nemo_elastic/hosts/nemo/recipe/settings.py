# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of a recipe by their dotted names, and every one that has another value than before."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fiddle

from nemo_elastic.hosts.common.changes import ABSENT, MadeName
from nemo_elastic.hosts.common.changes import Changes as RecipeChanges

__all__ = ["Changes", "settings"]

#: why a setting that a user knows gets another value
REASONS = {
    "log.ckpt.save_optim_on_train_end": "stage 2 continues from it",
    "optim.lr_mult": "of the router",
    "resume.restore_config": "the teacher is the start",
    "trainer.strategy.ddp.check_for_nan_in_grad": "elastic.nonfinite looks at them",
}
#: what is one line, however many values it has
WHOLE = {"model.elastic": "the elastic block"}


class Maker(MadeName):
    """The name of what a `run.Config` makes, and that itself."""

    made: Callable[..., Any]


def settings(value: Any) -> dict[str, Any]:
    """Every setting of a recipe by its dotted name: plain values as they are, classes by their names.

    What stands in a list goes by its class, `trainer.callbacks[TimingCallback]`, where each has one of its own; the
    list itself is then the order of the classes.
    """
    return dict(_settings(value, ""))


def _settings(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, fiddle.Buildable):
        made = Maker(_called(value.__fn_or_cls__))
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


class Changes(RecipeChanges):
    """`hosts.common.changes.Changes` of a recipe of NeMo-Run."""

    settings = staticmethod(settings)
    reasons = REASONS
    whole = WHOLE

    def value(self, name: str, held: Mapping[str, Any]) -> Any:
        """A setting; where it is not written down, the default of what is made with it."""
        if name in held:
            return held[name]
        owner, _, argument = name.rpartition(".")
        made = held.get(owner)
        if not isinstance(made, Maker):
            return ABSENT
        try:
            default = inspect.signature(made.made).parameters[argument].default
        except (KeyError, TypeError, ValueError):
            return ABSENT
        plain = default is None or isinstance(default, (bool, int, float, str))
        return default if plain else ABSENT
