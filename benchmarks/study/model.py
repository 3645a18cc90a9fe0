# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The studies' parents: small Nemotron-H models: of ten layers, and one that reads far.

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


@dataclass
class ContextNemotronH(StudyNemotronH):
    """0.5M parameters for texts that ask for what was said far before.

    It starts from 1/sqrt(hidden): from megatron-core's 0.02 it does not learn to look anything up in a thousand steps.
    """

    __wrapped_init__ = False

    hybrid_override_pattern: str = "M*M*-"
    num_layers: int = 5
    hidden_size: int = 128
    ffn_hidden_size: int = 256
    mamba_num_heads: int = 8
    vocab_size: int = 258
    init_method_std: float = 128**-0.5
