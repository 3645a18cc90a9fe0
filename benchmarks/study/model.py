# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The parent of the baselines: a small Nemotron-H of ten layers.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

from dataclasses import dataclass

from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH


@dataclass
class StudyNemotronH(TinyNemotronH):
    """5.2M parameters; a third of them are in Mamba layers."""

    __wrapped_init__ = False

    hybrid_override_pattern: str = "M-M*-M-M*-"
    num_layers: int = 10
    hidden_size: int = 256
    ffn_hidden_size: int = 1280
    mamba_num_heads: int = 16
    mamba_head_dim: int = 32
    mamba_num_groups: int = 4
    mamba_state_dim: int = 16
    num_attention_heads: int = 8
    num_query_groups: int = 2
    kv_channels: int = 32
