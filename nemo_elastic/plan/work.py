# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""FLOPs and time of one optimizer step, and idle time of a pipeline with unequal stages and members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.cost import flops_per_token
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import MOE, TOP_K
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.search import Space, uniform_family

from .activations import HALF, context_bytes_per_token, routed_input
from .candidate import Candidate
from .machine import EFFICIENCY, EXPERT_EFFICIENCY, GPUS, SLOW, SUMS, Gpu
from .memory import local_experts, local_parameters, stages


def members(parent: Parent, config: ElasticConfig) -> dict[str, Subnet]:
    """Even cuts that meet the budgets, in place of the members that training will find.

    Args:
        parent: shape with the block's FFN stripes.
        config: the block.

    Raises:
        ElasticError: the block does not fit the parent.
    """
    axes = config.resolve_axes(parent)
    config.targets(parent)
    order = range(parent.num_layers - 1, -1, -1) if len(axes[DEPTH].choices) > 1 else ()
    return uniform_family(Space(parent, axes, tuple(order)), config.budgets)


@dataclass(frozen=True)
class Work:
    """FLOPs of one optimizer step on all GPUs together, averaged over the run.

    Attributes:
        student: forward and backward of the sampled members.
        recompute: their layers' second forward.
        teacher: the teacher's forward.
    """

    student: float
    recompute: float
    teacher: float

    @property
    def total(self) -> float:
        return self.student + self.recompute + self.teacher

    def to_json(self) -> dict[str, float]:
        """FLOPs by part, total included."""
        return asdict(self) | {"total": self.total}


def step_work(candidate: Candidate, family: Mapping[str, Subnet]) -> Work:
    """FLOPs of a step: tokens x FLOPs per token (cost.flops_per_token), backward twice the forward.

    Only the experts that a token is routed to are counted. A micro-batch runs one member, drawn by `sampling`; until a
    router's shapes are frozen, smaller members run as the full model under masks. A frozen teacher runs on every
    micro-batch; with `teacher: self` only where the parent was not sampled.
    """
    parent, config, run, share = candidate.parent, candidate.config, candidate.run, candidate.gated
    length = run.seq_length
    whole = flops_per_token(parent, parent.full, length)
    whole_layers = flops_per_token(parent, parent.full, length, head=False)
    forward = layers = 0.0
    sampled = config.weights()
    for chance, member in zip(sampled, family.values(), strict=True):
        forward += chance * (share * whole + (1 - share) * flops_per_token(parent, member, length))
        layers += chance * (share * whole_layers + (1 - share) * flops_per_token(parent, member, length, head=False))
    teacher_share = {"none": 0.0, "self": 1 - sampled[0]}.get(str(config.distill.teacher), 1.0)
    recompute = layers * run.tokens if candidate.recompute else 0.0
    return Work(3 * forward * run.tokens, recompute, teacher_share * whole * run.tokens)


@dataclass(frozen=True)
class _Part:
    hidden: int
    layers: tuple[Any, ...]


@lru_cache(maxsize=1024)
def _stage_flops(parent: Parent, member: Subnet, pipeline: int, length: int, heads: bool) -> tuple[float, ...]:
    """Forward FLOPs per token of each stage; `heads`: with the head on the last one."""
    size = parent.num_layers // pipeline
    parts = [
        _Part(member.hidden, tuple(layer for layer in member.layers if layer.index // size == stage.index))
        for stage in stages(parent, pipeline)
    ]
    return tuple(
        flops_per_token(parent, part, length, head=heads and i == pipeline - 1) for i, part in enumerate(parts)
    )


def wait(candidate: Candidate, family: Mapping[str, Subnet]) -> float:
    """Time of a pipeline slot relative to equal stages and equal micro-batches; 1 without a pipeline.

    In a slot every stage runs another micro-batch with another member, and the slowest determines the time: the
    expected maximum over stages of independent samples. This is an upper bound, as a fast stage need not wait at once.
    A stage's cost is the student's forward, its backward (twice that), what is recomputed, and the teacher's forward.
    """
    parent, config, pipeline = candidate.parent, candidate.config, candidate.pipeline
    length, share = candidate.run.seq_length, candidate.gated
    if pipeline == 1:
        return 1.0
    chances: dict[Subnet, float] = {}
    for chance, member in zip(config.weights(), family.values(), strict=True):
        for which, part in ((parent.full, share), (member, 1 - share)):
            chances[which] = chances.get(which, 0.0) + chance * part

    def cost(member: Subnet) -> list[float]:
        whole, layers = (_stage_flops(parent, member, pipeline, length, head) for head in (True, False))
        return [3 * a + (b if candidate.recompute else 0.0) for a, b in zip(whole, layers, strict=True)]

    taught = _stage_flops(parent, parent.full, pipeline, length, True) if config.distill.has_teacher else ()
    costs = {
        member: [c + t for c, t in zip(cost(member), taught or [0.0] * pipeline, strict=True)] for member in chances
    }
    mean = sum(chance * sum(costs[member]) for member, chance in chances.items()) / pipeline
    values = sorted({c for per_stage in costs.values() for c in per_stage})
    largest, below = 0.0, 0.0
    for value in values:  # probability that every stage costs at most `value`
        up_to = 1.0
        for i in range(pipeline):
            up_to *= sum(chance for member, chance in chances.items() if costs[member][i] <= value)
        largest, below = largest + value * (up_to - below), up_to
    return largest / mean


def stage_output_bytes(candidate: Candidate) -> float:
    """Bytes that a rank sends to the next stage for a micro-batch; its backward pass returns as many.

    They are the student's hidden states and, with a teacher, the teacher's, too (`megatron.megatron_host`).
    """
    streams, run, shards = 1 + candidate.config.distill.has_teacher, candidate.run, candidate.shards
    return (
        streams * HALF * candidate.parent.hidden * run.seq_length * run.micro_batch / (shards.stream * shards.context)
    )


def expert_bytes(candidate: Candidate) -> float:
    """Bytes that a rank sends to other ranks for the experts of a micro-batch, in all layers; 0 without experts.

    For every token and chosen expert one all-to-all sends the expert's input and another returns its output,
    `Routing.load` times as much for the busiest rank; (e-1)/e of it leaves a rank of e. This happens in the forward
    pass, for gradients in the backward pass, in recomputation, and in the teacher's forward.
    """
    parent, run, shards = candidate.parent, candidate.run, candidate.shards
    if shards.expert == 1:
        return 0.0
    choices = parent.size(TOP_K) * run.seq_length * run.micro_batch / (shards.stream * shards.context)
    kept_off = (shards.expert - 1) / shards.expert
    return (
        candidate.passes * 2 * parent.types.count(MOE) * routed_input(parent) * choices * kept_off * run.routing.load
    )


def context_bytes(candidate: Candidate) -> float:
    """Bytes that a rank sends to context-parallel ranks for a micro-batch, in all layers.

    (c-1)/c of `activations.context_bytes_per_token` leaves a rank of c; passes as in `expert_bytes`.
    """
    c, run = candidate.shards.context, candidate.run
    if c == 1:
        return 0.0
    tokens = run.seq_length * run.micro_batch / c
    return candidate.passes * context_bytes_per_token(candidate.parent, candidate.shards) * tokens * (c - 1) / c


def seconds(candidate: Candidate, work: Work, waiting: float = 1.0) -> float:
    """Estimated time of a step: products, then collectives, none of them overlapped. For ordering layouts.

    Products run at `EFFICIENCY` of the peak whatever their size, with experts at `EXPERT_EFFICIENCY`. A pipeline of p
    stages idles for p-1 micro-batches, waits in each slot for its slowest stage, and sends hidden states and gradients
    between stages. Communication of narrower members is counted at full width.

    Args:
        candidate: the layout.
        work: FLOPs of the step.
        waiting: see `wait`.
    """
    run, gpu, pipeline = candidate.run, GPUS[candidate.run.gpu], candidate.pipeline
    rate = EXPERT_EFFICIENCY if MOE in candidate.parent.types else EFFICIENCY
    products = work.total / (run.gpus * gpu.flops * rate)
    link = gpu.network if run.gpus > run.node else gpu.nvlink
    between = 2 * stage_output_bytes(candidate) * candidate.micro_batches / link if pipeline > 1 else 0.0
    busy = (products + _inside_layers(candidate, gpu)) * waiting + between
    return busy * (1 + (pipeline - 1) / candidate.micro_batches) + reduction(candidate, link)


def slow_seconds(candidate: Candidate, work: Work) -> float:
    """Time of a step at the lowest published rate for whole steps, which exclude recomputation."""
    run = candidate.run
    what = "experts" if MOE in candidate.parent.types else "long" if run.seq_length > 16384 else "dense"
    return (work.student + work.teacher) / (run.gpus * GPUS[run.gpu].flops * SLOW[what])


def streams(candidate: Candidate) -> int:
    """Transfers of the residual stream among tensor-parallel ranks per layer and micro-batch, teacher included.

    There are 2 in a forward pass, and in a backward pass 3 with sequence parallelism (megatron.linear gathers the
    input again for the weight's gradient) and 2 without.
    """
    passes = 2 + (3 if candidate.shards.sequence else 2) + (2 if candidate.recompute else 0)
    return passes + (2 if candidate.config.distill.has_teacher else 0)


def _inside_layers(candidate: Candidate, gpu: Gpu) -> float:
    """Time of the collectives of all layers.

    Tensor parallelism moves the residual stream (`streams`): a ring all-gather or reduce-scatter sends (t-1)/t of it,
    an all-reduce twice that. Context-parallel ranks, all in one node, exchange positions for heads (`context_bytes`).
    Tokens are sent to experts (`expert_bytes`), inside a node if the expert-parallel group fits one.
    """
    parent, run, shards, passes = candidate.parent, candidate.run, candidate.shards, streams(candidate)
    t, pipeline = shards.tensor, candidate.pipeline
    stream = HALF * parent.hidden * run.seq_length * run.micro_batch / shards.context * (t - 1) / t
    time = candidate.micro_batches * passes * (parent.num_layers / pipeline + 1) * stream / gpu.nvlink
    time += candidate.micro_batches * context_bytes(candidate) / pipeline / gpu.nvlink
    in_node = run.gpus <= run.node or run.node % shards.expert == 0
    sent = expert_bytes(candidate) / pipeline
    return time + candidate.micro_batches * sent / (gpu.nvlink if in_node else gpu.network)


def reduction(candidate: Candidate, link: float) -> float:
    """Time to reduce gradients and gather bf16 parameters over data x context parallel ranks, once a step (overlap is
    off). Experts are reduced over the ranks that replicate them.
    """
    parent, shards = candidate.parent, candidate.shards
    parameters, experts = max(
        (local_parameters(parent, stage, shards.tensor, shards.expert), local_experts(parent, stage, shards.expert))
        for stage in stages(parent, candidate.pipeline)
    )
    data, each = candidate.data * shards.context, SUMS[candidate.run.gradients] + HALF
    time = each * (parameters - experts) * (data - 1) / data / link
    if experts:
        replicas = shards.tensor * data / shards.expert
        time += each * experts * (replicas - 1) / replicas / link
    return time
