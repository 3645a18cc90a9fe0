# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A Nemotron-H that trains on a CPU: the parent of the demo, the tests and the tiny recipes.

No `from __future__ import annotations` here: NeMo-Run reads annotations as types, for overrides.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from nemo.collections.llm.gpt.model.ssm import NemotronHConfigBase

from nemo_elastic.megatron.spec import elastic_stack_spec


@dataclass
class TinyNemotronH(NemotronHConfigBase):
    """1.6M parameters with every part of a Nano V2: Mamba-2, squared-ReLU MLP and grouped-query attention layers.

    No positional embedding, untied head, no biases except conv1d and dt, as the large ones. The vocabulary is that of
    the tokenizer; 1024 is what the demo trains.

    A NeMo trap: a class that captures its arguments for checkpoints (`io.IOMixin`) is wrapped on first use; one whose
    base class was used before it inherits the mark "already wrapped" and captures nothing. `__wrapped_init__ = False`
    takes the mark away; a subclass of this class needs that line too.
    """

    __wrapped_init__ = False

    hybrid_override_pattern: str = "M-M-M*-M-M*-"
    num_layers: int = 12
    hidden_size: int = 128
    ffn_hidden_size: int = 512
    mamba_num_heads: int = 16
    mamba_head_dim: int = 16
    mamba_num_groups: int = 4
    mamba_state_dim: int = 16
    num_attention_heads: int = 4
    num_query_groups: int = 2
    kv_channels: int = 32
    vocab_size: int = 1024
    # The base class pads to a multiple of 128 times the tensor-parallel size: here 1024 is 1024.
    make_vocab_size_divisible_by: int = 1
    seq_length: int = 256

    # Without TransformerEngine, and with layers that know widths; the parameter names are the stock ones.
    mamba_stack_spec: Callable = field(default_factory=lambda: elastic_stack_spec)

    # what a CPU needs
    use_cpu_initialization: bool = True
    params_dtype: torch.dtype = torch.float32
    bf16: bool = False
    first_last_layers_bf16: bool = False
    # fused kernels that exist for CUDA alone
    apply_rope_fusion: bool = False
    bias_dropout_fusion: bool = False
    cross_entropy_loss_fusion: bool = False
    gradient_accumulation_fusion: bool = False
    masked_softmax_fusion: bool = False
    persist_layer_norm: bool = False


@dataclass
class RecallNemotronH(TinyNemotronH):
    """0.15M parameters for `demo.facts`: texts that ask for what stands far back.

    It starts from 1/sqrt(hidden): from megatron-core's 0.02 so small a model takes many times as long to learn to look
    anything up.
    """

    __wrapped_init__ = False

    hybrid_override_pattern: str = "M*M*-"
    num_layers: int = 5
    hidden_size: int = 64
    ffn_hidden_size: int = 128
    mamba_num_heads: int = 8
    num_attention_heads: int = 2
    vocab_size: int = 258
    init_method_std: float = 64**-0.5
