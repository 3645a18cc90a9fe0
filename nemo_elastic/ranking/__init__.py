# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Importance scores -> orders -> sorted parent (method §3).

`measure.rank` runs batches through a model and returns a `Ranking`; `sort` orders a state dict by it, after which
every nested width is a blocked prefix. Imports of this module need no torch.
"""

from .ranking import RANKING, Ranking, RankOptions
from .sorting import norm_before, number_before, permutation, rescaling, rotated, sort

__all__ = [
    "RANKING", "RankOptions", "Ranking", "norm_before", "number_before", "permutation", "rescaling", "rotated", "sort",
]  # fmt: skip
