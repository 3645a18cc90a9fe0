# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The first step of multi-token prediction (MTP) layers in torch: drafts of the token after the next one.

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
        state: their tensors, by Hugging Face's names. They may have another dtype than the model, in which they run.

    Attributes:
        state: the tensors of the first step.
    """

    def __init__(
        self, parent: Parent, member: Subnet, prediction: Prediction, state: Mapping[str, torch.Tensor]
    ) -> None:
        step = replace(prediction, steps=1)
        self.state = {t.hf: state[t.hf] for t in step.tensors(parent, member)}
        self.parent, self.member = step.extend(parent), step.extend_member(parent, member)
        self.layers = self.member.layers[len(member.layers) :]
        self.ends: dict[str, torch.Tensor] = {}
        self.own: dict[int | None, dict[str, torch.Tensor]] = {layer.index: {} for layer in self.layers}
        for t in step.tensors(parent, member):
            kind, _, name = t.row.name.partition(".")
            place = self.ends if kind == "prediction" else self.own[t.index]
            place[name if t.number is None else f"{name}.{t.number}"] = state[t.hf]

    def hidden(self, trunk: Layers, hidden_bld: torch.Tensor, next_bl: torch.Tensor) -> torch.Tensor:
        """What the model's head reads [b, l, d] to give logits of the tokens after the next ones.

        Args:
            trunk: the model.
            hidden_bld: outputs of its final norm.
            next_bl: the tokens that follow each of them.
        """
        model, ends, eps = trunk.weights, self.ends, self.parent.norm_eps
        read = rms_norm(trunk.embed(next_bl), ends["enorm"], eps), rms_norm(hidden_bld, ends["hnorm"], eps)
        x_bld = torch.nn.functional.linear(torch.cat(read, -1), ends["eh_proj"].to(hidden_bld.dtype))
        layers = [LayerWeights(layer, self.own[layer.index]) for layer in self.layers]
        member = Subnet(self.member.hidden, self.layers)
        step = Layers(Weights(self.parent, member, model.embedding, layers, ends["norm"], model.head))
        for index in step.indices:
            x_bld = step.layer(index, x_bld)
        return step.norm(x_bld)

    def beside(self, trunk: Layers, tokens_bl: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head reads to predict the tokens behind each but the first one, [b, l - 1, d] twice.

        Returns:
            Of the model, which gets no gradient; and of the MTP layers, which read one token less of the text.
        """
        with torch.no_grad():
            x_bld = trunk.embed(tokens_bl)
            for index in trunk.indices:
                x_bld = trunk.layer(index, x_bld)
            hidden_bld = trunk.norm(x_bld)
        return hidden_bld[:, 1:], self.hidden(trunk, hidden_bld[:, :-1], tokens_bl[:, 1:])
