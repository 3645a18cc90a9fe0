# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Megatron-Bridge on machines without CUDA: its training loop runs with every 'cuda' meaning the CPU, through gloo.

What Bridge 0.6.2 itself insists on, and no option reaches, stands in megatron/bridge/training/initialize.py: that CUDA
is there (line 91; an argument lets it go, which `setup` does not pass on), and to build helpers for which the wheel of
megatron-core has no Makefile (line 147), and which come built with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training import initialize, setup
from megatron.bridge.utils.common_utils import get_rank_safe
from megatron.core.tensor_parallel.random import initialize_rng_tracker

from nemo_elastic.hosts.common.logs import lines_to
from nemo_elastic.megatron.cpu import cuda_as_cpu, group_step_adam


def without_cuda(config: Any) -> None:
    """Set what a run without CUDA needs of Bridge's own settings."""
    config.dist.distributed_backend, config.dist.use_gloo_process_groups = "gloo", True
    config.rng.inference_rng_tracker = True  # the other one keeps CUDA generators
    config.checkpoint.load_rng = config.checkpoint.async_save = False
    config.ddp.overlap_param_gather = False  # there is no second stream to gather on
    model = config.model
    model.apply_rope_fusion = model.bias_dropout_fusion = model.cross_entropy_loss_fusion = False
    model.gradient_accumulation_fusion = model.masked_softmax_fusion = model.persist_layer_norm = False
    model.moe_permute_fusion = False  # TransformerEngine's, asked for with experts or without


@contextlib.contextmanager
def bridge_on_this_machine(config: Any) -> Iterator[None]:
    """Runs the body, a training of Bridge's, on this machine; without effect where CUDA is available."""
    if torch.cuda.is_available():
        yield
        return
    without_cuda(config)
    saved = setup.initialize_megatron, initialize.compile_helpers
    setup.initialize_megatron = partial(initialize.initialize_megatron, allow_no_cuda=True)
    initialize.compile_helpers = lambda: None
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    sharded = config.ddp.use_distributed_optimizer or config.optimizer.use_distributed_optimizer
    try:
        with cuda_as_cpu(), group_step_adam() if sharded else contextlib.nullcontext():
            yield
    finally:
        setup.initialize_megatron, initialize.compile_helpers = saved


@contextlib.contextmanager
def lines_to_logs(folder: Path) -> Iterator[None]:
    """Keeps what Bridge prints and logs while the body, a training, runs in a file of each rank in `folder`."""
    rank = get_rank_safe()
    if rank == 0:
        print(f"Megatron-Bridge's own lines go to {folder}, into bridge_log_rank-*.txt", flush=True)
    with lines_to(folder / f"bridge_log_rank-{rank}.txt"):
        yield
