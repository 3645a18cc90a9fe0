# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Elastic megatron-core models without NeMo, on one process or a few gloo ranks: for benchmarks and tests."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from nemo_elastic.core.family import Parent
from nemo_elastic.megatron.choice import ElasticState


def start(
    rank: int = 0,
    world: int = 1,
    tensor: int = 1,
    port: int = 0,
    expert: int = 1,
    expert_tensor: int | None = None,
    context: int = 1,
) -> None:
    """Process group, parallel state and random state of one rank; a parallel state that is there stays."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker

    torch.set_num_threads(1)
    if not dist.is_initialized():
        if world == 1:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        else:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            dist.init_process_group("gloo", rank=rank, world_size=world)
    if not parallel_state.model_parallel_is_initialized():
        experts = {"expert_model_parallel_size": expert, "expert_tensor_parallel_size": expert_tensor}
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=tensor, context_parallel_size=context, **experts
        )
        initialize_rng_tracker(inference_rng_tracker=True)


def build(
    parent: Parent,
    elastic: bool = True,
    sequence_parallel: bool = False,
    seed: int = 0,
    spec: Any = None,
    pattern: str | None = None,
    **config: Any,
) -> Any:
    """A megatron-core model of `parent`'s shape; float32 unless said.

    `model.state` is its ElasticState; `spec` another stack's, `pattern` another than the parent's.
    """
    from megatron.core import parallel_state
    from megatron.core.activations import squared_relu
    from megatron.core.transformer.transformer_config import TransformerConfig

    from nemo_elastic.formats.megatron.shape import has_experts, stock_sizes
    from nemo_elastic.megatron.compat import new_model
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.spec import elastic_stack_spec
    from nemo_elastic.megatron.vocabulary import make_elastic

    if has_experts(parent.pattern):
        sizes = stock_sizes(parent, parent.full, experts=True)
        experts = {name: value for name, value in sizes.items() if "moe" in name}
        experts |= {"moe_router_load_balancing_type": "none", "moe_token_dispatcher_type": "alltoall"}
        experts |= {"expert_model_parallel_size": parallel_state.get_expert_model_parallel_world_size()}
        experts |= {"expert_tensor_parallel_size": parallel_state.get_expert_tensor_parallel_world_size()}
        config = experts | config
    settings = TransformerConfig(
        num_layers=parent.num_layers, hidden_size=parent.hidden, num_attention_heads=parent.attention_heads,
        num_query_groups=parent.kv_heads, kv_channels=parent.attention_head_dim, ffn_hidden_size=parent.ffn,
        mamba_num_heads=parent.mamba_heads, mamba_head_dim=parent.mamba_head_dim,
        mamba_num_groups=parent.mamba_groups, mamba_state_dim=parent.state, activation_func=squared_relu,
        normalization="RMSNorm", add_bias_linear=False, hidden_dropout=0.0, attention_dropout=0.0,
        use_cpu_initialization=True, gradient_accumulation_fusion=False, masked_softmax_fusion=False,
        bias_dropout_fusion=False, persist_layer_norm=False, is_hybrid_model=True,
        init_method_std=0.1, sequence_parallel=sequence_parallel,
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        context_parallel_size=parallel_state.get_context_parallel_world_size(),
        **{"params_dtype": torch.float32} | config,
    )  # fmt: skip
    torch.manual_seed(seed)
    with cuda_as_cpu():
        model = new_model(
            settings, spec or elastic_stack_spec(), parent.vocab, 64, pattern or parent.pattern, parent.tied
        )
    if elastic:
        model.state = ElasticState(parent)  # pyright: ignore
        make_elastic(model, model.state)
    return model


def distributed(core: Any, sharded: bool = True, **settings: Any) -> Any:
    """megatron-core's DistributedDataParallel around a model: gradients in `main_grad`, as in a run.

    Args:
        core: the model.
        sharded: for a distributed optimizer, which lays the weights in a buffer, too.
        settings: of data parallelism, others than in a run.
    """
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    from nemo_elastic.megatron.cpu import cuda_as_cpu

    settings = {"grad_reduce_in_fp32": True, "use_distributed_optimizer": sharded} | settings
    config = DistributedDataParallelConfig(**settings)
    with cuda_as_cpu():
        return DistributedDataParallel(core.config, config, core)
