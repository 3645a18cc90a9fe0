# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A megatron-core model taken apart, for the ranking: embed, the layers one by one, norm, head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from nemo_elastic.nn.gates import Probe

from .run import WHOLE, Run
from .stack import ElasticMambaStack, block


class Layers:
    """Runs the whole model's layers in any order (`ranking.layered.Layered`); streams are [s, b, D].

    Args:
        model: a MambaModel with an `ElasticMambaStack`, on one pipeline stage; no choice may be in force.
    """

    def __init__(self, model: Any) -> None:
        assert isinstance(model.decoder, ElasticMambaStack)
        self.model, self.decoder = model, model.decoder

    def embed(self, tokens_bs: torch.Tensor) -> torch.Tensor:
        """Token ids [b, s] to the stream that enters the first layer."""
        return self.model.embedding(input_ids=tokens_bs, position_ids=None)

    def layer(self, index: int, x_sbd: torch.Tensor, probe: Probe | None = None) -> torch.Tensor:
        """The stream after layer `index` from the stream before it; that one is left as it is."""
        return block(self.decoder.layers[index], index, x_sbd, self._run(probe))

    def norm(self, x_sbd: torch.Tensor, probe: Probe | None = None) -> torch.Tensor:
        """The final norm of the last layer's stream."""
        return self.decoder.final_norm(x_sbd, self._run(probe))

    def head(self, x_sbd: torch.Tensor) -> torch.Tensor:
        """Logits [b, s, V/tp] of what `norm` gave."""
        shared = self.model.share_embeddings_and_output_weights
        weight = self.model.shared_embedding_or_output_weight() if shared else None
        return self.model.output_layer(x_sbd, weight=weight)[0].transpose(0, 1)

    def _run(self, probe: Probe | None) -> Run:
        state, config = self.decoder.elastic, self.decoder.config
        whole = state.run(self.decoder.tp_group, config.sequence_parallel) if state is not None else WHOLE
        return replace(whole, probe=probe)
