# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Importance scores -> orders -> sorted parent (method §3).

`rank` runs batches through a model and returns a `Ranking`; `sort` permutes a state dict by it, after which every
nested width is a blocked prefix. Needs torch and numpy only: any model that has the calling form `Forward` will do.
"""

from nemo_elastic.ranking.measure import rank
from nemo_elastic.ranking.ranking import Ranking
from nemo_elastic.ranking.scores import Forward, RankOptions, Reduce, Statistics
from nemo_elastic.ranking.sorting import permutation, sort

__all__ = ["Forward", "RankOptions", "Ranking", "Reduce", "Statistics", "permutation", "rank", "sort"]
