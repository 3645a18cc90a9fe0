# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Norm modules under megatron-core's names: the final RMSNorm, and the gated norm's parameter holder."""

from __future__ import annotations

from typing import Any

import torch

from nemo_elastic.nn.norm import rms_norm

from .compat import shard
from .run import WHOLE, Run


class ElasticRMSNorm(torch.nn.Module):
    """A norm that stands by itself: the stack's final one, that of experts. Its weight is a replica on every rank."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        self.weight.sequence_parallel = config.sequence_parallel  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x_sbd: torch.Tensor, run: Run = WHOLE, index: int = -1) -> torch.Tensor:
        x_sbd = rms_norm(x_sbd, run.norm_weight(self.weight), self.eps, run.hidden_count)
        run.watch("hidden", index, x_sbd)
        return x_sbd


class GatedNormWeight(torch.nn.Module):
    """Holds the gated norm's weight where mamba_ssm's RMSNormGated would: the mixer does the arithmetic itself."""

    def __init__(self, hidden_size: int, eps: float = 1e-5, device: Any = None, dtype: Any = None, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: Any = None) -> dict:
        """Sharded along dimension 0, as mamba_ssm's norm is in megatron-core."""
        return shard(self.state_dict(prefix="", keep_vars=True), prefix, {"weight": 0}, sharded_offsets)
