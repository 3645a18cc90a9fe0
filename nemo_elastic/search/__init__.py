# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which shape for which budget: spaces of members, even cuts, projection onto budgets, and search.

Numbers and a loss callable only; nothing here runs a model. Importable without torch.
"""

from nemo_elastic.search.even import uniform, uniform_family
from nemo_elastic.search.finder import SearchResult, search
from nemo_elastic.search.measured import Trial
from nemo_elastic.search.projection import Projection, project, project_family
from nemo_elastic.search.reach import check_block
from nemo_elastic.search.space import Price, Slot, Space
from nemo_elastic.search.trained import trained_space

__all__ = [
    "Price",
    "Projection",
    "SearchResult",
    "Slot",
    "Space",
    "Trial",
    "check_block",
    "project",
    "project_family",
    "search",
    "trained_space",
    "uniform",
    "uniform_family",
]
