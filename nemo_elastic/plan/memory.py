# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Memory per GPU: what a training step holds at its fullest moment."""

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

#: logits on which nn.loss_terms works at a time on a GPU
LOGITS = 2**22
#: kind -> bytes of gradients inside of a layer at its backward pass's fullest moment, over its activations; 1 where
#: nobody measured them (`make bench ARGS=bench_plan_memory`)
EXTRA = {MLP: 0.75, MOE: 0.0}
#: the same of Mamba's scan in torch, whose forward pass takes more than the backward pass leaves; and recomputed
_SCAN = (1.05, 0.5)
#: bytes per parameter of the distributed optimizer, shared out over data-parallel ranks: fp32 parameters and Adam's
#: two moments (megatron-core, use_distributed_optimizer, as in NeMo's recipes)
OPTIMIZER = 12


@dataclass(frozen=True)
class PipelineStage:
    """One pipeline stage: the layer types it holds and whether it has the ends of the model."""

    kinds: tuple[str, ...]
    first: bool
    last: bool
    index: int


def stages(parent: Parent, pipeline: int) -> list[PipelineStage]:
    """Equal runs of layers, as megatron-core's MambaStack deals them out."""
    size = parent.num_layers // pipeline
    return [
        PipelineStage(parent.types[i * size : (i + 1) * size], i == 0, i == pipeline - 1, i) for i in range(pipeline)
    ]


@lru_cache(maxsize=1024)  # every layout of a stage asks for the same
def _local(
    parent: Parent, stage: PipelineStage, tensor: int, expert: int
) -> tuple[tuple[Row, int | None, float], ...]:
    """(row, index of its layer, elements on one rank) of every row of a stage; the model's own rows have no layer."""
    size = parent.num_layers // max(1, len(parent.types) // len(stage.kinds))
    start, out = stage.index * size, []
    for row, own in rows(parent, parent.full):
        if own is None:
            if not (stage.first if row.name == "embedding" else stage.last):
                continue
        elif not start <= own.index < start + len(stage.kinds):
            continue
        count = prod(shape(parent, row, parent.full, own))
        if row.each is not None:  # experts are dealt out, each of them whole
            local = count * parent.size(row.each) / expert
        else:
            local = count / (tensor if row.parallel is not None else 1)
        out.append((row, None if own is None else own.index, local))
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
    """Those of them that are experts': their replicas are other ranks than those of the rest."""
    return round(sum(n for row, _, n in _local(parent, stage, 1, expert) if row.each is not None))


def rounded(parent: Parent, stage: PipelineStage, tensor: int, scheme: str | None, expert: int = 1) -> float:
    """Bytes of the weights that low precision has rounded, bf16 beside the weights themselves."""
    if scheme is None:
        return 0.0
    low = default_rows(parent)
    return HALF * sum(n for row, index, n in _local(parent, stage, tensor, expert) if (row.name, index) in low)


def width(row: Row) -> int:
    """Bytes of each of its parameters in a bf16 model: what no cast may round is fp32."""
    return SINGLE if row.exact else HALF


def loss(parent: Parent, distill: DistillConfig, tokens: int, shards: Sharding) -> float:
    """Bytes of the head and its loss at their fullest, on the last stage, for `tokens` of a micro-batch.

    nn.loss_head: bf16 logits of `chunk_tokens` tokens of both models, some of them in fp32 (nn.loss_terms), and the
    head's gradient in fp32, which waits for the backward pass and joins the buffer there, beside the dummy that stands
    for it in bf16. Over all tokens, or this rank's run of them under sequence parallelism: the teacher's hidden states
    and the gradient of the student's (twice while it is scaled); what both models have of a chunk is gathered there.
    """
    has_teacher, chunk = distill.has_teacher, min(distill.chunk_tokens, tokens)
    vocabulary = parent.vocab / shards.tensor
    # the student's rows, and what each term holds beside them; with `self` the whole model's terms are others
    ways = [distill.of(way) for way in {has_teacher, distill.teacher == "frozen"}]
    copies = 1 + max(sum(TERMS[name].copies for name in way) for way in ways)
    logits = (1 + has_teacher) * HALF * chunk * vocabulary + copies * SINGLE * min(LOGITS, chunk * vocabulary)
    head, own = vocabulary * parent.hidden, tokens * stream(parent, shards)
    gathered = (1 + has_teacher) * HALF * chunk * parent.hidden if shards.sequence else 0.0
    return (1 + has_teacher) * own + SINGLE * head + max(logits + gathered, HALF * head + own)


def stage_input_bytes(
    parent: Parent, stage: PipelineStage, distill: DistillConfig, shards: Sharding, recompute: bool
) -> float:
    """Bytes per token that a stage keeps of what the one before it gave, until its backward pass has come.

    That is one tensor with the student's stream and, with a teacher, the teacher's too (`megatron.megatron_host`).
    A recomputed first layer keeps the student's half anyway.
    """
    streams = (not recompute) + distill.has_teacher
    return 0.0 if stage.first else streams * stream(parent, shards)


def gradients_between(parent: Parent, stage: PipelineStage, distill: DistillConfig, shards: Sharding) -> float:
    """Bytes per token of the gradients that come from the next stage and go to the one before, for both streams."""
    streams = 1 + distill.has_teacher
    return ((not stage.last) + (not stage.first)) * streams * stream(parent, shards)


def transient(
    parent: Parent, stage: PipelineStage, shards: Sharding, tokens: int, *, recompute: bool, gated: bool, kernels: bool
) -> float:
    """Bytes that the backward pass of one layer, or of the embedding, takes for a moment, at its fullest.

    That is one of three: gradients inside of a layer, `EXTRA` times its activations, with recomputation beside those;
    of experts those of all they do (`routed_gradients`) and one of their weights' in bf16, of all that a rank
    holds of a layer; or the gradient of the layer's largest weight, in bf16 until it is in the buffer
    (megatron.linear.accumulate), beside what a recomputed layer has kept. The embedding's is a dummy in bf16; the
    head's is part of `loss`. Sequence parallelism gathers the stream whole, once for the weight and once for its
    gradient; ranks that share sequences hold what they send of the widest projection beside what they get.
    """
    pieces: dict[str | None, float] = {}
    for row, _, n in _local(parent, stage, shards.tensor, shards.expert):
        pieces[row.layer] = max(pieces.get(row.layer, 0.0), HALF * n)
    fullest = pieces.get(None, 0.0)
    for kind in set(stage.kinds):
        own = layer(parent, kind, shards, gated, kernels)
        extra = EXTRA.get(kind, 1.0) if kernels or kind != MAMBA else _SCAN[recompute]
        routed = routed_gradients(parent, kind, shards)
        moment = max(tokens * extra * own, tokens * routed + pieces[kind])
        fullest = max(fullest, moment + recompute * tokens * own)
    gathered = 2 * HALF * parent.hidden if shards.sequence else 0
    if shards.context > 1:
        gathered += 2 * HALF * widths(parent).projection / shards.tensor
    return tokens * gathered + fullest


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, the fullest of its pipeline.

    Attributes:
        weights: bf16 parameters, and those that no cast may round in fp32; with `distill.quantize` what it rounds
            once more.
        gradients: DistributedDataParallel's buffer; every data-parallel rank holds all of it, also with a distributed
            optimizer.
        optimizer: fp32 parameters and Adam's moments, a share per rank that holds the same ones: data x context, and
            of experts tensor x data x context / expert.
        teacher: parameters of the frozen parent, cut into stages as the student is.
        activations: what is saved for the backward pass of all micro-batches in flight.
        loss: what the head's loss holds, the gradient of the head included until it is added to the buffer.
        transient: what one layer's backward pass takes for a moment. It comes after the loss, not with it.
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
        """The fullest moment: everything that stays, and the larger of loss and backward pass."""
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

    Micro-batches are in flight as 1F1B has them: of as many stages as there are to the end, this one included.
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
