# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A megatron-core model taken apart, for the ranking: embed, the layers one by one, norm, head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from nemo_elastic.core.kinds.record import Kind
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Probe

from .choice import WHOLE, ForwardChoice
from .context import context_group, own_positions
from .linear import all_reduce, tensor_group
from .spec import ElasticMambaStack, run_layer
from .vocabulary import embedded


def _shared_out(kind: Kind) -> set[str]:
    """Sites of a kind at which a tensor-parallel rank sees its own blocks of channels, and all tokens."""
    blocks = {axis.name for axis in kind.axes if axis.blocks is not None and axis.shared_by == "tensor"}
    shapes = dict.fromkeys((kind.site, *kind.sites.values()), kind.shape) | kind.more_sites
    return {site for site, terms in shapes.items() if blocks & {*terms}}


#: of all kinds; what experts do comes back to the rank of their tokens (`moe_layer`)
CHANNELS = frozenset[str]().union(*map(_shared_out, KINDS.values()))


@dataclass(frozen=True)
class ModelShards:
    """Ranks that share channels or positions of one model (`ranking.scores.Shards`).

    Attributes:
        group: tensor-parallel ranks; None for one.
        sequence_parallel: between the layers each of them sees its part of the tokens, else all of them.
        context: ranks that share sequences out; None for one.
    """

    group: dist.ProcessGroup | None
    sequence_parallel: bool
    context: dist.ProcessGroup | None = None

    def mean(self, site: str, mean: torch.Tensor) -> torch.Tensor:
        """Channels of all ranks, whose blocks lie in the order of the ranks; or the mean over all their tokens."""
        if self.group is not None and site in CHANNELS:
            parts = [torch.empty_like(mean) for _ in range(self.group.size())]
            dist.all_gather(parts, mean.contiguous(), group=self.group)
            mean = torch.cat(parts, dim=1)
        elif self.group is not None and self.sequence_parallel:
            mean = all_reduce(mean, self.group) / self.group.size()
        return mean if self.context is None else all_reduce(mean, self.context) / self.context.size()

    def tokens(self, each_bl: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Its own part of the tokens inside of the layers, and between them."""
        inside = own_positions(each_bl, self.context)
        if self.group is None or not self.sequence_parallel:
            return inside, inside
        return inside, inside.chunk(self.group.size(), 1)[self.group.rank()]

    def logits(self, sums: torch.Tensor) -> torch.Tensor:
        for group in (self.group, self.context):
            sums = sums if group is None else all_reduce(sums, group)
        return sums


class MegatronLayers:
    """Runs the whole model's layers in any order (`ranking.scores.Layered`); streams are [s, b, D].

    Under sequence parallelism they are [s/tp, b, D], and of the rank's own positions where ranks share sequences out.

    Args:
        model: a MambaModel with an `ElasticMambaStack`, on one pipeline rank; no choice may be in force.
    """

    def __init__(self, model: Any, documents: Documents | None = None) -> None:
        assert isinstance(model.decoder, ElasticMambaStack)
        self.model, self.decoder, self.documents = model, model.decoder, documents

    def with_documents(self, documents: Documents) -> MegatronLayers:
        """The same model, reading rows with these documents."""
        return MegatronLayers(self.model, documents)

    @property
    def shards(self) -> ModelShards | None:
        """The ranks that hold the model together; None where it is one."""
        tensor, context = tensor_group(self.decoder), context_group(self.model)
        if tensor is None and context is None:
            return None
        return ModelShards(tensor, self.decoder.config.sequence_parallel, context)

    def embed(self, tokens_bs: torch.Tensor) -> torch.Tensor:
        """Token ids [b, s] to the stream that enters the first layer."""
        return embedded(self.model, tokens_bs)

    def layer(self, index: int, x_sbd: torch.Tensor, probe: Probe | None = None) -> torch.Tensor:
        """The stream after layer `index` from the stream before it; that one is left as it is."""
        return run_layer(self.decoder.layers[index], index, x_sbd, self._run(probe))

    def norm(self, x_sbd: torch.Tensor, probe: Probe | None = None) -> torch.Tensor:
        """The final norm of the last layer's stream."""
        return self.decoder.final_norm(x_sbd, self._run(probe))

    def head(self, x_sbd: torch.Tensor) -> torch.Tensor:
        """Logits [b, s, V/tp] of what `norm` gave."""
        shared = self.model.share_embeddings_and_output_weights
        weight = self.model.shared_embedding_or_output_weight() if shared else None
        return self.model.output_layer(x_sbd, weight=weight)[0].transpose(0, 1)

    def _run(self, probe: Probe | None) -> ForwardChoice:
        state, config = self.decoder.elastic, self.decoder.config
        whole = state.run(self.decoder.tp_group, config.sequence_parallel) if state is not None else WHOLE
        return replace(whole, probe=probe, documents=self.documents)
