# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Importance scores -> orders -> sorted parent (method §3).

`rank` runs batches through a model and returns a `Ranking`; `sort` permutes a state dict by it, after which every
nested width is a blocked prefix. Needs torch and numpy only: any model that is `Layered` will do. Reading a ranking
and sorting by it need no torch, so what does is loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .ranking import RANKING, Ranking, RankOptions
from .sorting import number_before, permutation, sort

if TYPE_CHECKING:
    from .measure import rank
    from .rows import Rows
    from .scores import Layered, Reduce, Shards, Statistics

__all__ = [
    "RANKING", "Layered", "RankOptions", "Ranking", "Reduce", "Rows", "Shards", "Statistics", "number_before",
    "permutation", "rank", "sort",
]  # fmt: skip

#: public name -> module that defines it
_HOME = {
    "Layered": ".scores",
    "Reduce": ".scores",
    "Rows": ".rows",
    "Shards": ".scores",
    "Statistics": ".scores",
    "rank": ".measure",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
