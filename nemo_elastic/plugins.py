# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of layers and terms of the loss of other packages: registered before a command reads what has them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from nemo_elastic.errors import ElasticError

__all__ = ["GROUP", "load_plugins"]

#: of entry points; each names a module that registers what it has when it is imported, or a function that does
GROUP = "nemo_elastic.plugins"


@cache
def load_plugins() -> None:
    """Let every installed package register what it has, once in a process.

    Raises:
        ElasticError: one of them fails.
    """
    for point in entry_points(group=GROUP):
        _load(point)


def _load(point: EntryPoint) -> None:
    try:
        plugin = point.load()
        if callable(plugin):
            plugin()
    except Exception as error:
        package = f" of {point.dist.name}" if point.dist else ""
        raise ElasticError(f"{GROUP}: {point.name}{package} fails: {error!r}; fix or remove that package") from error
