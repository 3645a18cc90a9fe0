# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The `elastic:` block: its sections, its budgets and axes, its JSON schema."""

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import (
    DataConfig,
    DistillConfig,
    ImportanceConfig,
    NonfiniteConfig,
    RouterConfig,
    SearchConfig,
)
from nemo_elastic.core.budget import AxisConfig, Budget

__all__ = [
    "AxisConfig",
    "Budget",
    "DataConfig",
    "DistillConfig",
    "ElasticConfig",
    "ImportanceConfig",
    "NonfiniteConfig",
    "RouterConfig",
    "SearchConfig",
]
