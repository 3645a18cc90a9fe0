# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that predict more than one token, at the width of the micro-batch's member: megatron-core's parameters, names
and sharding, and its loss (`process_mtp_loss`), without its logits.

They are layers of a parent behind the model (`core.prediction`): a `Run` of that parent slices them as it slices the
model's own. Tensor-parallel ranks each have the projection whole, and project the tokens that they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.transformer.multi_token_prediction import (
    MTPLossLoggingHelper,
    MultiTokenPredictionBlock,
    MultiTokenPredictionBlockSubmodules,
    MultiTokenPredictionLayer,
    MultiTokenPredictionLayerSubmodules,
)
from megatron.core.transformer.spec_utils import ModuleSpec

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.prefix import Selection
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Probe
from nemo_elastic.ranking.scores import through

from .choice import ElasticState, Run
from .layers import MegatronLayers
from .linear import SlicedLinear
from .modules import ElasticRMSNorm
from .moe_layer import ReplicatedLinear
from .spec import block, run_layer
from .vocabulary import distill_loss


def mtp_block() -> ModuleSpec:
    """What the stack's spec has for layers behind the model; those inside are the stack's own."""
    layer = MultiTokenPredictionLayerSubmodules(
        enorm=ElasticRMSNorm, hnorm=ElasticRMSNorm, layer_norm=ElasticRMSNorm, eh_proj=ReplicatedLinear
    )
    spec = ModuleSpec(module=MultiTokenPredictionLayer, submodules=layer)
    return ModuleSpec(
        module=MultiTokenPredictionBlock, submodules=MultiTokenPredictionBlockSubmodules(layer_specs=[spec])
    )


@dataclass(frozen=True)
class Ahead:
    """What enters the head for the tokens behind the next one, in each step."""

    hidden_sbd: Sequence[torch.Tensor]
    documents: Documents | None


def ahead_of(
    core: Any, state: ElasticState, hidden_sbd: torch.Tensor, tokens_bs: torch.Tensor, documents: Documents | None
) -> Ahead | None:
    """Run the layers behind a model on what its own have made of a micro-batch; `state.choice` says at which width.

    Returns:
        None where there are no such layers, or nothing says the width of theirs: under soft masks, and in a member
        that has no layer of one of their kinds.
    """
    layers, choice = state.prediction, state.choice
    if layers is None or not (choice is None or isinstance(choice, Subnet)):
        return None
    behind, member = layers.behind(state.parent), layers.member(state.parent, choice or state.parent.full)
    if member is None:
        return None
    world, config = core.decoder.tp_group.size(), core.config
    run = Run(behind, None if choice is None else member, world=world, documents=documents)
    out, tokens = [], tokens_bs
    for step in range(config.mtp_num_layers):
        number = 0 if config.mtp_use_repeated_layer else step
        tokens, x_sbd = _entered(core, number, tokens, hidden_sbd, run)
        hidden_sbd = _step(core.mtp.layers[number], number * len(layers.pattern), x_sbd, run)
        out.append(hidden_sbd)
    return Ahead(out, documents)


class LayersBehind:
    """Layers behind a model as a model of their own, for the ranking (`ranking.scores.Layered`).

    Its stream is the tokens that a step has read with what goes through its layers, [s, b, D]. A step that is run
    several times is seen in its first.

    Args:
        core: the model, whole on this pipeline rank; no choice may be in force.
    """

    def __init__(self, core: Any, state: ElasticState, documents: Documents | None = None) -> None:
        assert state.prediction is not None
        self.core, self.state, self.documents = core, state, documents
        self.model, self.size = MegatronLayers(core, documents), len(state.prediction.pattern)
        self.parent = state.prediction.behind(state.parent)

    def apart(self, documents: Documents) -> LayersBehind:
        return LayersBehind(self.core, self.state, documents)

    def embed(self, tokens_bs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        every = range(self.state.parent.num_layers)
        hidden_sbd = through(self.model, every, self.model.embed(tokens_bs))
        return _entered(self.core, 0, tokens_bs, hidden_sbd, self._run(None))

    def layer(
        self, index: int, stream: tuple[torch.Tensor, torch.Tensor], probe: Probe | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        (tokens_bs, x_sbd), (step, at) = stream, divmod(index, self.size)
        if step and not at:
            hidden_sbd = self._left(step - 1, x_sbd)
            tokens_bs, x_sbd = _entered(self.core, step, tokens_bs, hidden_sbd, self._run(None))
        return tokens_bs, block(_inner(self.core.mtp.layers[step])[at], index, x_sbd, self._run(probe))

    def norm(self, stream: tuple[torch.Tensor, torch.Tensor], probe: Probe | None = None) -> torch.Tensor:
        return self._left(self.parent.num_layers // self.size - 1, stream[1], probe)

    def head(self, normed: torch.Tensor) -> torch.Tensor:
        return self.model.head(normed)

    def _left(self, step: int, x_sbd: torch.Tensor, probe: Probe | None = None) -> torch.Tensor:
        return self.core.mtp.layers[step].final_layernorm(x_sbd, self._run(probe))

    def _run(self, probe: Probe | None) -> Run:
        return Run(self.parent, world=self.core.decoder.tp_group.size(), probe=probe, documents=self.documents)


def _inner(layer: Any) -> Any:
    return layer.mtp_model_layer.layers


def _step(layer: Any, first: int, x_sbd: torch.Tensor, run: Run) -> torch.Tensor:
    recompute = layer.training and layer.config.recompute_granularity == "full" and torch.is_grad_enabled()
    for at, inner in enumerate(_inner(layer)):
        x_sbd = run_layer(inner, first + at, x_sbd, run, recompute)
    return layer.final_layernorm(x_sbd, run)


def _entered(
    core: Any, step: int, tokens_bs: torch.Tensor, hidden_sbd: torch.Tensor, run: Run
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that a step reads, each position's next one, and what enters its first layer."""
    layer, tokens_bs = core.mtp.layers[step], _shifted(tokens_bs)
    embedded_sbd = core.embedding(input_ids=tokens_bs, position_ids=None)
    both_sb2d = torch.cat([layer.enorm(embedded_sbd, run), layer.hnorm(hidden_sbd, run)], -1)
    rows = run.hidden_selection()
    cols = None if rows is None else Selection(rows.parts * 2)  # of the token, and of the stream
    return tokens_bs, SlicedLinear.apply(both_sb2d, layer.eh_proj.weight, rows, cols, True, False, None)


def loss_ahead(
    core: Any, ahead: Ahead, labels_bs: torch.Tensor, weights_bs: torch.Tensor, chunk_tokens: int
) -> torch.Tensor:
    """Cross-entropy of the tokens behind the next one, as megatron-core adds it to the loss of a micro-batch.

    Returns:
        Its sum over tokens times the config's scale, of a mean over the tokens that each step has: what the model's
        own loss, a sum as well, is added to.
    """
    config, total, count = core.config, labels_bs.new_zeros((), dtype=torch.float32), weights_bs.sum()
    alone = DistillConfig(mode="ce", chunk_tokens=chunk_tokens)
    inside_bs = None if ahead.documents is None else ahead.documents.index(labels_bs.device)
    index_bs = inside_bs
    for step, hidden_sbd in enumerate(ahead.hidden_sbd):
        labels_bs, weights_bs = _shifted(labels_bs), _shifted(weights_bs)
        if index_bs is not None and inside_bs is not None:  # no document predicts the start of the next one
            index_bs = _shifted(index_bs, -1)
            weights_bs = weights_bs * (index_bs == inside_bs)
        tokens = weights_bs.sum()
        loss, _ = distill_loss(alone, (core, hidden_sbd), None, labels_bs, weights_bs)
        mean = loss / tokens.clamp(min=1)
        none = torch.zeros((), device=mean.device)
        MTPLossLoggingHelper.save_metrics_to_tracker(mean, none, tokens, step, len(ahead.hidden_sbd))
        total = total + config.mtp_loss_scaling_factor / config.mtp_num_layers * mean * count
    return total


def _shifted(t_bs: torch.Tensor, fill: int = 0) -> torch.Tensor:
    """Each position's next one."""
    return torch.nn.functional.pad(t_bs[:, 1:], (0, 1), value=fill)
