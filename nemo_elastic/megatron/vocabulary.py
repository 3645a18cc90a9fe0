# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Embedding and head at the width of a member.

MambaModel builds both itself and offers no spec for them, so they are given our class after construction
(`make_elastic`): the subclasses add a forward and nothing else, names and sharding stay.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.mamba import MambaModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import (

    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)

from nemo_elastic.prefix import Grid, Selection

from .linear import SlicedLinear, _group, accumulate
from .run import WHOLE, ElasticState, Run
from .stack import ElasticMambaStack


class _SlicedEmbedding(torch.autograd.Function):
    """Rows of a table cut to `width` columns; the gradient is added to those columns of those rows only."""

    @staticmethod
    def forward(ctx: Any, ids: torch.Tensor, weight: torch.Tensor, width: int, keep: torch.Tensor | None) -> Any:
        ctx.save_for_backward(ids, weight, keep)
        ctx.width = width
        out = F.embedding(ids, weight[:, :width])
        return out if keep is None else out * keep[..., None]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ids, weight, keep = ctx.saved_tensors
        if keep is not None:
            grad = grad * keep[..., None]
        flat = grad.reshape(-1, ctx.width)
        if getattr(weight, "main_grad", None) is not None:
            weight.main_grad[:, : ctx.width].index_add_(0, ids.reshape(-1), flat.to(weight.main_grad.dtype))
            if not hasattr(weight, "grad_added_to_main_grad"):
                return None, None, None, None
            weight.grad_added_to_main_grad = True
            return None, torch.empty_like(weight), None, None
        piece = torch.zeros(weight.shape[0], ctx.width, dtype=grad.dtype, device=grad.device)
        piece.index_add_(0, ids.reshape(-1), flat)
        columns = Selection((Grid((weight.shape[1],), (ctx.width,)),))
        return None, accumulate(weight, piece, None, columns), None, None


class ElasticEmbedding(VocabParallelEmbedding):
    """Vocabulary-parallel embedding that looks up the first d columns."""

    elastic: ElasticState | None = None

    def forward(self, input_: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Token ids [b, s] → [b, s, d], or [s/tp, b, d] where the embedding scatters to sequence shards."""
        run = _snapshot(self)
        width = run.subnet.hidden if run.subnet is not None else self.embedding_dim
        keep = None
        group = _group(self)
        if group is not None:
            outside = (input_ < self.vocab_start_index) | (input_ >= self.vocab_end_index)
            input_ = (input_ - self.vocab_start_index).masked_fill(outside, 0)
            keep = (~outside).to(self.weight.dtype)
        out = _SlicedEmbedding.apply(input_, self.weight, width, keep)
        if self.reduce_scatter_embeddings:
            out = out.transpose(0, 1).contiguous()
            return reduce_scatter_to_sequence_parallel_region(out, group=self.tp_group)
        return out if group is None else reduce_from_tensor_model_parallel_region(out, group=self.tp_group)


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
            input_, table, None, run.hidden_selection(), True, self.sequence_parallel, _group(self)
        )
        gather = self.gather_output if runtime_gather_output is None else runtime_gather_output
        return (gather_from_tensor_model_parallel_region(logits, group=self.tp_group) if gather else logits), None


def _snapshot(module: Any) -> Run:
    """Width of this forward. Embedding and head use no gates of their own: the stack applies the hidden gate."""
    state: ElasticState | None = module.elastic
    if state is None:
        return WHOLE
    return Run(state.parent, _sliced(state), world=1)


def _sliced(state: ElasticState) -> Any:
    from nemo_elastic.family import Subnet

    return state.choice if isinstance(state.choice, Subnet) else None


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


