# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Embedding, head and the loss of the head, at the width of a member.

MambaModel builds both itself and offers no spec for them, so they are given our class after construction
(`make_elastic`): the subclasses add a forward and nothing else, names and sharding stay.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
)

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.loss_head import Head, head_loss

from .choice import WHOLE, ElasticState, ForwardChoice, first_channels
from .compat import Model
from .context import context_group, of_all, own_positions
from .linear import SlicedLinear, accumulate, all_reduce, gather, reduce_scatter, tensor_group
from .spec import ElasticMambaStack

#: a megatron-core MambaModel and its hidden states [s, b, d]
Output = tuple[Any, torch.Tensor]


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
        rows, flat = ids.reshape(-1), grad.reshape(-1, width)
        columns = first_channels(weight.shape[1], width)
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


def _snapshot(module: Any) -> ForwardChoice:
    """Width of this forward. Embedding and head use no gates of their own: the stack applies the hidden gate."""
    state: ElasticState | None = module.elastic
    if state is None:
        return WHOLE
    return ForwardChoice(state.parent, state.choice if isinstance(state.choice, Subnet) else None)


def make_elastic(model: Model, state: ElasticState) -> Model:
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


def hidden_states(model: Model, tokens_bs: torch.Tensor | None, documents: Documents | None = None) -> torch.Tensor:
    """Output [s, b, d] of a pipeline rank's layers, on the last rank of the final norm; no logits are made.

    What MambaModel's forward does before its head. Only the first rank looks at the tokens; where documents lie in
    their rows every rank has to know. Under sequence parallelism a shard [s/tp, b, d], of the rank's own positions
    where ranks share a sequence out (`context`).
    """
    x = embedded(model, tokens_bs) if model.pre_process else None
    return model.decoder(hidden_states=x, attention_mask=None, documents=documents)


def embedded(model: Model, tokens_bs: torch.Tensor | None) -> torch.Tensor:
    """What enters the first layer: [s, b, d] of whole rows of tokens, or the rank's own positions of it."""
    assert tokens_bs is not None
    return model.embedding(input_ids=own_positions(tokens_bs, context_group(model)), position_ids=None)


def distill_loss(
    config: DistillConfig,
    student: Output,
    teacher: Output | None,
    labels_bs: torch.Tensor,
    weights_bs: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The block's loss of a micro-batch: `nn.loss_head` of two models' heads over the tensor-parallel vocabulary.

    Args:
        student: a model and its `hidden_states`, at any width; stock or elastic, tied or not.
        teacher: the same of the teacher; without one only the terms that need none.
        labels_bs: target token ids, whole rows.
        weights_bs: weight of every token: the loss mask.

    Returns:
        The sum of weight x loss over tokens, differentiable (the head's gradients in the window of `main_grad`), and
        the loss of every token [b, s], which is not: of the rank's own where ranks share a sequence out.
    """
    context = context_group(student[0])
    labels_bs = own_positions(labels_bs, context)
    weights_bs = None if weights_bs is None else own_positions(weights_bs, context)
    length, batch = labels_bs.t().shape
    group = tensor_group(student[0].output_layer)
    shared_out = group is not None and student[0].output_layer.sequence_parallel
    student_head, width = _head(*student, None if shared_out else group), student[1].shape[-1]
    loss, losses_t = head_loss(
        student_head,
        None if teacher is None else _head(*teacher),
        labels_t=labels_bs.t().reshape(-1),
        weights_t=None if weights_bs is None else weights_bs.t().reshape(-1),
        terms=config.of(teacher is not None),
        temperature=config.temperature,
        chunk_tokens=config.chunk_tokens,
        group=group,
        shared_out=shared_out,
        deliver=lambda weight, piece, factor: accumulate(
            weight, piece, None, first_channels(weight.shape[1], width), factor=factor
        ),
    )
    return of_all(loss, context), losses_t.view(length, batch).t()


def _head(model: Model, hidden_sbd: torch.Tensor, group: dist.ProcessGroup | None = None) -> Head:
    """Hidden states as this rank has them, and the head's weight. With a group, whose ranks all have the same hidden
    states, the gradients that their vocabulary shards give are summed.
    """
    layer = model.output_layer
    weight = model.shared_embedding_or_output_weight() if model.share_embeddings_and_output_weights else layer.weight
    assert weight is not None
    if group is not None:
        hidden_sbd = copy_to_tensor_model_parallel_region(hidden_sbd, group=group)
    return Head(hidden_sbd.flatten(0, 1), weight)
