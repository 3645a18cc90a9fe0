# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The first step of multi-token prediction (MTP) layers in torch: logits of the token after the next one.

As in megatron-core's `MultiTokenPredictionLayer` and vLLM's `nemotron_h_mtp`, a step reads the output of the model's
final norm and the embedding of the next token, and the model's head reads what the step's final norm puts out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.prediction import Prediction
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.functional import rms_norm
from nemo_elastic.nn.weights import LayerWeights, Weights


class Predictor:
    """The first step of a member's MTP layers.

    Args:
        parent, member: shape of the model.
        prediction: its MTP layers.
        state: their tensors, by Hugging Face's names.
    """

    def __init__(
        self, parent: Parent, member: Subnet, prediction: Prediction, state: Mapping[str, torch.Tensor]
    ) -> None:
        step = replace(prediction, steps=1)
        self.parent, self.member = step.extend(parent), step.extend_member(parent, member)
        self.layers = self.member.layers[len(member.layers) :]
        self.ends: dict[str, torch.Tensor] = {}
        self.own: dict[int | None, dict[str, torch.Tensor]] = {layer.index: {} for layer in self.layers}
        for t in step.tensors(parent, member):
            kind, _, name = t.row.name.partition(".")
            place = self.ends if kind == "prediction" else self.own[t.index]
            place[name if t.number is None else f"{name}.{t.number}"] = state[t.hf]

    def logits(self, trunk: Layers, hidden_bld: torch.Tensor, next_bl: torch.Tensor) -> torch.Tensor:
        """Logits [b, l, v] of the tokens after the next ones.

        Args:
            trunk: the model.
            hidden_bld: outputs of its final norm.
            next_bl: the tokens that follow each of them.
        """
        model, ends, eps = trunk.weights, self.ends, self.parent.norm_eps
        read = rms_norm(trunk.embed(next_bl), ends["enorm"], eps), rms_norm(hidden_bld, ends["hnorm"], eps)
        x_bld = torch.nn.functional.linear(torch.cat(read, -1), ends["eh_proj"])
        layers = [LayerWeights(layer, self.own[layer.index]) for layer in self.layers]
        member = Subnet(self.member.hidden, self.layers)
        step = Layers(Weights(self.parent, member, model.embedding, layers, ends["norm"], model.head))
        for index in step.indices:
            x_bld = step.layer(index, x_bld)
        return step.head(step.norm(x_bld))
