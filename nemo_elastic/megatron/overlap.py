# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Gradients that are reduced during the backward pass, though some parameters have no part in it.

With `overlap_grad_reduce` megatron-core starts to reduce a bucket when each of its parameters has reported once in
the last micro-batch (`distributed/param_and_grad_buffer.py: register_grad_ready`), by a hook on what adds up its
gradient. Layers that a member lacks, and the router where it chose nothing, have no such gradient, and their buckets
would never start. What runs is known before: these parameters report when the backward pass begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nemo_elastic.core.family import Subnet
from nemo_elastic.nn.gates import Choice, Gates


def bucket_groups(chunk: Any) -> Mapping[torch.Tensor, Any]:
    """Parameter -> the buckets it is reduced with, of a wrapped model whose gradients are; empty where none are."""
    while chunk is not None and not hasattr(chunk, "param_to_bucket_group"):
        chunk = getattr(chunk, "module", None)
    return chunk.param_to_bucket_group if chunk is not None and chunk.ddp_config.overlap_grad_reduce else {}


def report_absent(chunk: Any, core: Any, choice: Choice, hidden: torch.Tensor) -> None:
    """Let parameters without a part in a micro-batch report when the gradient of what the layers gave is there.

    Args:
        chunk: the model as data parallelism wraps it.
        core: the megatron-core model, with a submodule `elastic` where it has a router.
        choice: what runs; of gates the router has made.
        hidden: what the choice's layers have given.
    """
    groups = bucket_groups(chunk) if hidden.requires_grad else {}
    absent = [] if isinstance(choice, Gates) else [core.elastic] if hasattr(core, "elastic") else []
    if isinstance(choice, Subnet):
        absent += [layer for layer in core.decoder.layers if layer.layer_number - 1 not in choice.by_index]
    waiting = [param for module in absent for param in module.parameters() if param in groups]

    def report(_: torch.Tensor) -> None:
        for param in waiting:
            groups[param].register_grad_ready(param)

    if waiting:
        hidden.register_hook(report)
