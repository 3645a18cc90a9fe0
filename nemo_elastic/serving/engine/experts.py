# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A member's layer with experts in vLLM, on views of the family's experts.

vLLM's layer has all its experts in memory of its own. This one multiplies by a corner of the family's: on a GPU by
vLLM's kernel for all experts at once, which takes matrices with any stride between rows; on a CPU by the
runtime's loop, since vLLM has no kernel there for experts without a gate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.config import get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.nemotron_h import NemotronHMoEDecoderLayer

from nemo_elastic.core.family import Parent
from nemo_elastic.nn.forward import LayerRun, moe
from nemo_elastic.nn.weights import LayerWeights


class ExpertsLayer(NemotronHMoEDecoderLayer):
    """The norm and the experts of a layer; `forward` is vLLM's."""

    def __init__(self, config: Any, layer_idx: int, *more: Any, prefix: str = "", **named: Any) -> None:
        nn.Module.__init__(self)
        self.norm = RMSNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.mixer = Experts(f"{prefix}.mixer")


class Experts(nn.Module):
    """Router, experts and shared expert of one layer of a member. `read` gives them their weights.

    A compiler sees one operation, which finds its layer by name: `prefix`, unique in the engine.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix
        get_current_vllm_config().compilation_config.static_forward_context[prefix] = self

    def read(self, parent: Parent, weights: LayerWeights, up_eik: torch.Tensor, down_eki: torch.Tensor,
             held_e: tuple[int, ...]) -> None:  # fmt: skip
        """Use these weights.

        Args:
            parent, weights: of the layer.
            up_eik, down_eki: all experts of the family's layer; k is their input and output. The member's matrices
                are corners: along one axis `Storage` makes every width a prefix.
            held_e: number in them of each of the member's experts.
        """
        self.run = LayerRun(parent, weights, None, None, None)
        first = weights["up.0"]
        self.up_eik = up_eik[:, : first.shape[0], : first.shape[1]]
        self.down_eki = down_eki[:, : first.shape[1], : first.shape[0]]
        self.held_e = torch.tensor(held_e, dtype=torch.int32, device=up_eik.device)

    def forward(self, x_td: torch.Tensor) -> torch.Tensor:
        return torch.ops.nemo_elastic.experts(x_td, self.prefix)

    def mix(self, x_td: torch.Tensor) -> torch.Tensor:
        """What the layer adds to the stream [t, d], from the normalised stream [t, d]."""
        return moe(x_td[None], self.run, self.grouped if x_td.is_cuda else None)[0]

    def grouped(self, in_tk: torch.Tensor, chosen_tn: torch.Tensor, weight_tn: torch.Tensor) -> torch.Tensor:
        """Weighted sum [t, k] of the n experts of each token, by vLLM's kernel."""
        return fused_experts(
            in_tk.contiguous(), self.up_eik, self.down_eki, weight_tn.float(), self.held_e[chosen_tn],
            activation=MoEActivation.RELU2_NO_MUL,
        )  # fmt: skip


@torch.library.custom_op("nemo_elastic::experts", mutates_args=())
def _experts(x_td: torch.Tensor, prefix: str) -> torch.Tensor:
    return get_forward_context().no_compile_layers[prefix].mix(x_td)


@_experts.register_fake
def _(x_td: torch.Tensor, prefix: str) -> torch.Tensor:
    return torch.empty_like(x_td)
