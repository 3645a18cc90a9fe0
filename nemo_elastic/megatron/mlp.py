# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Squared-ReLU MLP that runs a slice of its neurons."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.mlp import MLP

from nemo_elastic.core.kinds.mlp import FFN

from .run import WHOLE, Run


class ElasticMLP(MLP):
    """megatron-core's parameters and sharding."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: torch.Tensor, run: Run = WHOLE, index: int = -1, **_: Any
    ) -> torch.Tensor:
        """Map [s, b, d] (width of the run) to [s, b, d], to be added to the residual stream."""
        h_sbf = self.linear_fc1(hidden_states, run, index, run.select("mlp.up", 0, index))
        run.watch("ffn_pre", index, h_sbf)
        h_sbf = self.activation_func(h_sbf)
        run.watch("ffn", index, h_sbf)
        gates = run.gates(index)
        if gates is not None:
            h_sbf = h_sbf * gates[FFN].to(h_sbf.dtype)
        return self.linear_fc2(h_sbf, run, run.select("mlp.down", 1, index))
