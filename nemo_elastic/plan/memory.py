# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory per GPU of a training step."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from math import prod
from typing import Any

from nemo_elastic.config.losses import TERMS
from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.mamba import MAMBA
from nemo_elastic.core.kinds.mlp import MLP
from nemo_elastic.core.kinds.moe import MOE
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.layout import by_name, rows, shape
from nemo_elastic.core.precision import default_rows

from .activations import HALF, SINGLE, Sharding, layer, routed_gradients, saved, stream, widths
from .candidate import Candidate
from .machine import SUMS

#: logits that nn.loss_terms processes at a time on a GPU
LOGITS = 2**22
#: kind -> peak bytes of gradients inside a layer's backward pass, relative to its activations; 1 where not measured
#: (`make bench ARGS=bench_plan_memory`)
EXTRA = {MLP: 0.75, MOE: 0.0}
#: the same for Mamba's torch scan, whose forward peak exceeds its saved tensors: without and with recomputation
_SCAN = (1.05, 0.5)
#: bytes per parameter of the distributed optimizer, divided among data-parallel ranks: fp32 parameters and Adam's
#: two moments (megatron-core, use_distributed_optimizer, as in NeMo's recipes)
OPTIMIZER = 12


@dataclass(frozen=True)
class PipelineStage:
    """One pipeline stage: its kinds of layers, and whether it has the embedding (first) and the head (last)."""

    kinds: tuple[str, ...]
    first: bool
    last: bool
    index: int


def stages(parent: Parent, pipeline: int) -> list[PipelineStage]:
    """Stages with equally many consecutive layers, as in megatron-core's MambaStack."""
    size = parent.num_layers // pipeline
    return [
        PipelineStage(parent.types[i * size : (i + 1) * size], i == 0, i == pipeline - 1, i) for i in range(pipeline)
    ]


@lru_cache(maxsize=1024)  # called again for every layout
def _local(
    parent: Parent, stage: PipelineStage, tensor: int, expert: int
) -> tuple[tuple[Row, int | None, float], ...]:
    """(row, index of its layer or None, elements on one rank) of every row of a stage."""
    size = parent.num_layers // max(1, len(parent.types) // len(stage.kinds))
    start, out = stage.index * size, []
    for row, at in rows(parent, parent.full):
        if at is None:
            if not (stage.first if row.name == "embedding" else stage.last):
                continue
        elif not start <= at.index < start + len(stage.kinds):
            continue
        count = prod(shape(parent, row, parent.full, at))
        if row.each is not None:  # experts are distributed whole
            local = count * parent.size(row.each) / expert
        else:
            local = count / (tensor if row.parallel is not None else 1)
        out.append((row, None if at is None else at.index, local))
    if parent.tied and stage.last and not stage.first:  # the last stage has its own copy of a tied embedding
        out.append((by_name("embedding"), None, parent.vocab * parent.hidden / tensor))
    return tuple(out)


def local_parameters(parent: Parent, stage: PipelineStage, tensor: int, expert: int = 1) -> int:
    """Parameters on one GPU. Exact: the layout table says which tensors are sharded and which are replicas.

    Experts are divided by `expert`, the expert-parallel size, and not by `tensor`: a rank holds whole ones
    (expert_tensor_parallel_size 1, as in Megatron-Bridge's recipes).

    The router of the family is left out: some ten thousand parameters, replicated, in fp32.
    """
    return round(sum(n for _, _, n in _local(parent, stage, tensor, expert)))


def local_experts(parent: Parent, stage: PipelineStage, expert: int) -> int:
    """Parameters of experts on one GPU, which other ranks replicate than the remaining parameters."""
    return round(sum(n for row, _, n in _local(parent, stage, 1, expert) if row.each is not None))


def rounded(parent: Parent, stage: PipelineStage, tensor: int, scheme: str | None, expert: int = 1) -> float:
    """Bytes of the fake-quantized weights, a further copy in bf16."""
    if scheme is None:
        return 0.0
    low = default_rows(parent)
    return HALF * sum(n for row, index, n in _local(parent, stage, tensor, expert) if (row.name, index) in low)


def width(row: Row) -> int:
    """Bytes per parameter in a bf16 model: 4 for rows that stay fp32."""
    return SINGLE if row.exact else HALF


def loss(parent: Parent, distill: DistillConfig, tokens: int, shards: Sharding) -> float:
    """Peak bytes of the head and its loss on the last stage, for `tokens` of a micro-batch.

    nn.loss_head: bf16 logits of `chunk_tokens` tokens of both models, some of them also in fp32 (nn.loss_terms), and
    the head's gradient in fp32, which is kept until the backward pass adds it to the buffer, with a bf16 placeholder.
    For all tokens, or the rank's tokens under sequence parallelism: the teacher's hidden states and the gradient of
    the student's (twice while it is scaled). Sequence parallelism gathers the hidden states of a chunk of both models.
    """
    has_teacher, chunk = distill.has_teacher, min(distill.chunk_tokens, tokens)
    vocabulary = parent.vocab / shards.tensor
    # fp32 copies of logits of the student and of each term; with `self` the full model has other terms
    ways = [distill.of(way) for way in {has_teacher, distill.teacher == "frozen"}]
    copies = 1 + max(sum(TERMS[name].copies for name in way) for way in ways)
    logits = (1 + has_teacher) * HALF * chunk * vocabulary + copies * SINGLE * min(LOGITS, chunk * vocabulary)
    head, hidden_states = vocabulary * parent.hidden, tokens * stream(parent, shards)
    gathered = (1 + has_teacher) * HALF * chunk * parent.hidden if shards.sequence else 0.0
    return (1 + has_teacher) * hidden_states + SINGLE * head + max(logits + gathered, HALF * head + hidden_states)


def stage_input_bytes(
    parent: Parent, stage: PipelineStage, distill: DistillConfig, shards: Sharding, recompute: bool
) -> float:
    """Bytes per token of the previous stage's output that a stage keeps until its backward pass.

    It is one tensor with the student's stream and, with a teacher, the teacher's too (`megatron.megatron_host`). With
    recomputation the student's half is counted as the first layer's input.
    """
    streams = (not recompute) + distill.has_teacher
    return 0.0 if stage.first else streams * stream(parent, shards)


def gradients_between(parent: Parent, stage: PipelineStage, distill: DistillConfig, shards: Sharding) -> float:
    """Bytes per token of gradients received from the next and sent to the previous stage, for both streams."""
    streams = 1 + distill.has_teacher
    return ((not stage.last) + (not stage.first)) * streams * stream(parent, shards)


def transient(
    parent: Parent, stage: PipelineStage, shards: Sharding, tokens: int, *, recompute: bool, gated: bool, kernels: bool
) -> float:
    """Peak temporary bytes of the backward pass of one layer or of the embedding.

    The peak is the largest of three: gradients inside a layer, `EXTRA` times its activations (plus the activations
    with recomputation); for experts `routed_gradients` and the bf16 gradient of one of their weights, for all of a
    layer's experts on the rank; or the bf16 gradient of the largest weight until it is added to the buffer
    (megatron.linear.accumulate), plus a recomputed layer's activations. The embedding's gradient is a bf16
    placeholder; the head's is part of `loss`. Sequence parallelism gathers the whole stream twice, for the weight and
    for its gradient; context parallelism has send and receive buffers of the widest projection.
    """
    pieces: dict[str | None, float] = {}
    for row, _, n in _local(parent, stage, shards.tensor, shards.expert):
        pieces[row.layer] = max(pieces.get(row.layer, 0.0), HALF * n)
    fullest = pieces.get(None, 0.0)
    for kind in set(stage.kinds):
        activations = layer(parent, kind, shards, gated, kernels)
        extra = EXTRA.get(kind, 1.0) if kernels or kind != MAMBA else _SCAN[recompute]
        routed = routed_gradients(parent, kind, shards)
        moment = max(tokens * extra * activations, tokens * routed + pieces[kind])
        fullest = max(fullest, moment + recompute * tokens * activations)
    gathered = 2 * HALF * parent.hidden if shards.sequence else 0
    if shards.context > 1:
        gathered += 2 * HALF * widths(parent).projection / shards.tensor
    return tokens * gathered + fullest


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU; of a pipeline the stage with the most.

    Attributes:
        weights: bf16 parameters (fp32 for `Row.exact`), plus a fake-quantized copy with `distill.quantize`.
        gradients: DistributedDataParallel's buffer, whole on every data-parallel rank, also with a distributed
            optimizer.
        optimizer: fp32 parameters and Adam's moments, divided by data x context, and for experts by
            tensor x data x context / expert.
        teacher: parameters of the frozen parent, cut into stages as the student is.
        activations: saved for the backward pass of all micro-batches in flight.
        loss: peak of the head's loss, with the gradient of the head until it is added to the buffer.
        transient: peak of one layer's backward pass. It comes after the loss, not with it.
    """

    weights: float
    gradients: float
    optimizer: float
    teacher: float
    activations: float
    loss: float
    transient: float

    @property
    def total(self) -> float:
        """Peak: everything permanent, and the larger of loss and backward pass."""
        stays = self.weights + self.gradients + self.optimizer + self.teacher + self.activations
        return stays + max(self.loss, self.transient)

    @property
    def largest(self) -> str:
        """Name of the largest part."""
        return max((f.name for f in fields(self)), key=lambda name: getattr(self, name))

    def to_json(self) -> dict[str, int]:
        """Whole bytes, total included."""
        return {f.name: round(getattr(self, f.name)) for f in fields(self)} | {"total": round(self.total)}


def stage_memory(candidate: Candidate, stage: PipelineStage) -> Memory:
    """Memory of the GPUs of one pipeline stage.

    With 1F1B a stage has as many micro-batches in flight as there are stages from it to the end.
    """
    parent, distill, shards = candidate.parent, candidate.config.distill, candidate.shards
    count = local_parameters(parent, stage, shards.tensor, shards.expert)
    experts = local_experts(parent, stage, shards.expert)
    data, tokens = candidate.data * shards.context, candidate.tokens
    replicas = shards.tensor * data / shards.expert
    in_flight = min(candidate.pipeline - stage.index, candidate.micro_batches)
    how: Any = {"recompute": candidate.recompute, "gated": candidate.gated > 0, "kernels": candidate.run.kernels}
    per_token = stage_input_bytes(parent, stage, distill, shards, candidate.recompute)
    per_token += saved(parent, stage.kinds, shards, **how, first=stage.first, last=stage.last)
    weights = sum(width(row) * n for row, _, n in _local(parent, stage, shards.tensor, shards.expert))
    return Memory(
        weights=weights + rounded(parent, stage, shards.tensor, distill.quantize, shards.expert),
        gradients=SUMS[candidate.run.gradients] * count,
        optimizer=OPTIMIZER * (count - experts) / data + OPTIMIZER * experts / replicas,
        teacher=weights if distill.teacher == "frozen" else 0.0,
        activations=per_token * tokens * in_flight,
        loss=loss(parent, distill, tokens, shards) if stage.last else 0.0,
        transient=transient(parent, stage, shards, tokens, **how)
        + gradients_between(parent, stage, distill, shards) * tokens,
    )
