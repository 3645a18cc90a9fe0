# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Embedding and head at the width of a member.

MambaModel builds both itself and offers no spec for them, so they are given our class after construction
(`make_elastic`): the subclasses add a forward and nothing else, names and sharding stay.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.models.mamba import MambaModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import (
    gather_from_tensor_model_parallel_region,
)

from nemo_elastic.family import Subnet
from nemo_elastic.prefix import Grid, Selection

from .linear import SlicedLinear, accumulate, all_reduce, gather, reduce_scatter, tensor_group
from .run import WHOLE, ElasticState, Run
from .stack import ElasticMambaStack


class _SlicedEmbedding(torch.autograd.Function):
    """Rows of a table cut to `width` columns, summed over vocabulary shards; the gradient goes to those columns only.

    `keep` [b, s] is zero where a token lives on another rank. Under sequence parallelism the output is [s/tp, b, d].
    """

    @staticmethod
    def forward(
        ctx: Any,
        ids: torch.Tensor,
        weight: torch.Tensor,
        width: int,
        keep: torch.Tensor | None,
        scatter: bool,
        group: dist.ProcessGroup | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(ids, weight, keep)
        ctx.args = (width, scatter, group)
        out = F.embedding(ids, weight[:, :width])
        if keep is not None:
            out = out * keep[..., None]
        if scatter:
            out = out.transpose(0, 1).contiguous()
            return out if group is None else reduce_scatter(out, group)
        return out if group is None else all_reduce(out, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ids, weight, keep = ctx.saved_tensors
        width, scatter, group = ctx.args
        if scatter:
            grad = (grad if group is None else gather(grad, group)).transpose(0, 1)
        if keep is not None:
            grad = grad * keep[..., None]
        columns = Selection((Grid((weight.shape[1],), (width,)),))
        rows, flat = ids.reshape(-1), grad.reshape(-1, width)
        return None, accumulate(weight, flat, None, columns, at=rows), None, None, None, None


class ElasticEmbedding(VocabParallelEmbedding):
    """Vocabulary-parallel embedding that looks up the first d columns."""

    elastic: ElasticState | None = None

    def forward(self, input_: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Token ids [b, s] → [b, s, d], or [s/tp, b, d] where the embedding scatters to sequence shards."""
        run = _snapshot(self)
        width = run.subnet.hidden if run.subnet is not None else self.embedding_dim
        keep, group = None, tensor_group(self)
        if group is not None:
            outside = (input_ < self.vocab_start_index) | (input_ >= self.vocab_end_index)
            input_ = (input_ - self.vocab_start_index).masked_fill(outside, 0)
            keep = (~outside).to(self.weight.dtype)
        return _SlicedEmbedding.apply(input_, self.weight, width, keep, self.reduce_scatter_embeddings, group)


class ElasticHead(ColumnParallelLinear):
    """Vocabulary-parallel head that reads the first d columns."""

    elastic: ElasticState | None = None

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_: torch.Tensor,
        weight: torch.Tensor | None = None,
        runtime_gather_output: bool | None = None,
    ) -> tuple[torch.Tensor, None]:
        """[s, b, d] → logits [s, b, V/tp] (gathered on request) and no bias."""
        run = _snapshot(self)
        table = self.weight if weight is None else weight
        logits = SlicedLinear.apply(
            input_, table, None, run.hidden_selection(), True, self.sequence_parallel, tensor_group(self)
        )
        gather = self.gather_output if runtime_gather_output is None else runtime_gather_output
        return (gather_from_tensor_model_parallel_region(logits, group=self.tp_group) if gather else logits), None


def _snapshot(module: Any) -> Run:
    """Width of this forward. Embedding and head use no gates of their own: the stack applies the hidden gate."""
    state: ElasticState | None = module.elastic
    if state is None:
        return WHOLE
    return Run(state.parent, state.choice if isinstance(state.choice, Subnet) else None)


def make_elastic(model: MambaModel, state: ElasticState) -> MambaModel:
    """Let a MambaModel built with `spec.elastic_stack_spec` obey `state`; the model's own type stays exact."""
    assert isinstance(model.decoder, ElasticMambaStack)
    model.decoder.elastic = state
    if model.pre_process:
        table = model.embedding.word_embeddings
        assert type(table) is VocabParallelEmbedding
        table.__class__ = ElasticEmbedding
        table.elastic = state  # pyright: ignore[reportAttributeAccessIssue]
    if model.post_process:
        head = model.output_layer
        assert type(head) is ColumnParallelLinear
        head.__class__ = ElasticHead
        head.elastic = state  # pyright: ignore[reportAttributeAccessIssue]
    return model
