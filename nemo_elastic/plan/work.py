# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""FLOPs and time of one optimizer step, and what a pipeline waits for.

Pipeline ranks are not equal, and neither are the members that are in the pipeline at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import inclusion
from nemo_elastic.core.cost import flops_per_token
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import MOE, TOP_K
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.search import Space, uniform_family

from .activations import HALF, Sharding, handed_round, routed_input
from .machine import EFFICIENCY, EXPERT_EFFICIENCY, SUMS, Gpu, RunShape
from .memory import stages

__all__ = ["Work", "dispatched", "exchanged", "gated_share", "members", "passed_on", "seconds", "step_work", "wait"]


def members(parent: Parent, config: ElasticConfig) -> dict[str, Subnet]:
    """Even cuts that meet the budgets: they stand in for the members that training has yet to find.

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


def gated_share(config: ElasticConfig, run: RunShape) -> float:
    """Share of the run's micro-batches that train under the router's masks, at full size."""
    if config.router is None or run.stage != 1:
        return 0.0
    return config.router.freeze_at


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
        return {"student": self.student, "recompute": self.recompute, "teacher": self.teacher, "total": self.total}


def step_work(
    parent: Parent, family: Mapping[str, Subnet], config: ElasticConfig, run: RunShape, recompute: bool
) -> Work:
    """FLOPs of a step: tokens x FLOPs per token (cost.flops_per_token), backward twice the forward.

    Of experts those count that a token is sent to: work goes by active parameters, memory by all.

    A micro-batch runs `budgets_per_batch` members, by their `sampling`. Until a router's shapes are frozen all but the
    parent run as the whole model under masks. A frozen teacher sees every micro-batch once; a trainable one runs on
    its own where the parent was not sampled.
    """
    length, share = run.seq_length, gated_share(config, run)
    whole = flops_per_token(parent, parent.full, length)
    whole_layers = flops_per_token(parent, parent.full, length, head=False)
    forward = layers = 0.0
    sampled = inclusion(config.weights(), config.budgets_per_batch)
    for chance, member in zip(sampled, family.values(), strict=True):
        forward += chance * (share * whole + (1 - share) * flops_per_token(parent, member, length))
        layers += chance * (share * whole_layers + (1 - share) * flops_per_token(parent, member, length, head=False))
    taught = {"none": 0.0, "self": 1 - sampled[0]}.get(str(config.distill.teacher), 1.0)
    return Work(3 * forward * run.tokens, layers * run.tokens if recompute else 0.0, taught * whole * run.tokens)


@dataclass(frozen=True)
class _Part:
    hidden: int
    layers: tuple[Any, ...]


@lru_cache(maxsize=1024)
def _stage_flops(parent: Parent, member: Subnet, pipeline: int, length: int, heads: bool) -> tuple[float, ...]:
    """Forward FLOPs per token of each stage, the head on the last of them or left out."""
    size = parent.num_layers // pipeline
    parts = [
        _Part(member.hidden, tuple(layer for layer in member.layers if layer.index // size == stage.index))
        for stage in stages(parent, pipeline)
    ]
    return tuple(
        flops_per_token(parent, part, length, head=heads and i == pipeline - 1) for i, part in enumerate(parts)
    )


def wait(
    parent: Parent, family: Mapping[str, Subnet], config: ElasticConfig, run: RunShape, recompute: bool, pipeline: int
) -> float:
    """Time of a pipeline's slot as a share of that of equal stages and equal micro-batches; 1 without a pipeline.

    In a slot every stage runs another micro-batch, each with a member of its own, and all go on when the slowest is
    done: the mean of the largest of so many independent samples, each at its stage's cost. That is somewhat too much,
    since a stage that is ahead does not wait at once. A stage's cost is the student's forward, its backward (twice
    that), what is recomputed, and the teacher's forward.

    Args:
        parent: shape of the model.
        family: members by budget.
        config: the block; one budget per micro-batch.
        run: the run.
        recompute: layers are checkpointed.
        pipeline: number of stages.
    """
    if pipeline == 1:
        return 1.0
    share = gated_share(config, run)
    chances: dict[Subnet, float] = {}
    for chance, member in zip(inclusion(config.weights(), 1), family.values(), strict=True):
        for which, part in ((parent.full, share), (member, 1 - share)):
            chances[which] = chances.get(which, 0.0) + chance * part

    def cost(member: Subnet) -> list[float]:
        whole, layers = (_stage_flops(parent, member, pipeline, run.seq_length, head) for head in (True, False))
        return [3 * a + (b if recompute else 0.0) for a, b in zip(whole, layers, strict=True)]

    taught = _stage_flops(parent, parent.full, pipeline, run.seq_length, True) if config.distill.taught else ()
    costs = {
        member: [c + t for c, t in zip(cost(member), taught or [0.0] * pipeline, strict=True)] for member in chances
    }
    mean = sum(chance * sum(costs[member]) for member, chance in chances.items()) / pipeline
    values = sorted({c for held in costs.values() for c in held})
    largest, below = 0.0, 0.0
    for value in values:  # the largest is at most this where every stage's cost is
        up_to = 1.0
        for i in range(pipeline):
            up_to *= sum(chance for member, chance in chances.items() if costs[member][i] <= value)
        largest, below = largest + value * (up_to - below), up_to
    return largest / mean


def passed_on(parent: Parent, config: ElasticConfig, run: RunShape, shards: Sharding) -> float:
    """Bytes that a rank gives to the next stage for a micro-batch; as many come back in its backward pass.

    The student's hidden states, and with a teacher those of the teacher beside them (`megatron.megatron_host`).
    """
    streams = 1 + config.distill.taught
    return streams * HALF * parent.hidden * run.seq_length * run.micro_batch / (shards.stream * shards.context)


def dispatched(parent: Parent, config: ElasticConfig, run: RunShape, shards: Sharding, recompute: bool) -> float:
    """Bytes that a rank sends to other ranks for the experts of a micro-batch, in all layers; 0 without experts.

    Of every token of its own and every choice an all-to-all sends what the expert reads, and another one the result
    back, `Routing.load` times as much to and from the busiest rank; (e-1)/e of it leaves a rank of e. That is done in
    the forward pass, for the gradients in the backward pass, in a layer that is computed again, and once by a teacher.
    """
    if shards.expert == 1:
        return 0.0
    passes = config.budgets_per_batch * (2 + recompute) + config.distill.taught
    choices = parent.size(TOP_K) * run.seq_length * run.micro_batch / (shards.stream * shards.context)
    kept_off = (shards.expert - 1) / shards.expert
    return passes * 2 * parent.types.count(MOE) * routed_input(parent) * choices * kept_off * run.routing.load


def exchanged(parent: Parent, config: ElasticConfig, run: RunShape, shards: Sharding, recompute: bool) -> float:
    """Bytes that a rank sends to those that share its sequences for a micro-batch, in all layers; 0 for one.

    (c-1)/c of what layers hand round (`activations.handed_round`) leaves a rank of c; passes as in `dispatched`.
    """
    c = shards.context
    if c == 1:
        return 0.0
    passes = config.budgets_per_batch * (2 + recompute) + config.distill.taught
    tokens = run.seq_length * run.micro_batch / c
    return passes * handed_round(parent, shards) * tokens * (c - 1) / c


def seconds(
    parent: Parent,
    config: ElasticConfig,
    run: RunShape,
    gpu: Gpu,
    work: Work,
    shards: Sharding,
    *,
    pipeline: int,
    data: int,
    parameters: int,
    experts: int = 0,
    recompute: bool,
    waiting: float = 1.0,
    handed_on: float = 0.0,
) -> float:
    """Estimated time of a step: products, then collectives, none of them overlapped. For ordering layouts.

    Products run at `EFFICIENCY` of the peak whatever their size, with experts at `EXPERT_EFFICIENCY`. Tensor
    parallelism moves the residual stream: a ring all-gather or reduce-scatter sends (t-1)/t of it, an all-reduce twice
    that. Per layer that is 2 in a forward pass, and in a backward pass 3 with sequence parallelism (megatron.linear
    gathers the input again for the weight's gradient) and 2 without. Data parallelism reduces gradients and gathers
    bf16 parameters once a step (overlap is off). A pipeline of p stages idles for p-1 micro-batches, waits in each
    slot for its slowest stage, and hands hidden states on and gradients back. Narrower members are counted at full
    width in what is moved. Experts are reduced over the ranks that hold the same ones, and tokens travel to them
    (`dispatched`), inside a node where the expert-parallel group fits one. Ranks that share sequences, which are in
    one node, exchange positions for heads (`exchanged`), and are data-parallel ones to the gradients.

    Args:
        parent: shape of the model.
        config: the block.
        run: the run.
        gpu: kind of GPU.
        work: FLOPs of the step.
        shards: tensor, sequence, expert and context parallelism.
        pipeline: pipeline-parallel size.
        data: data-parallel size.
        parameters: parameters on one GPU.
        experts: those of them that are experts'.
        recompute: layers are checkpointed.
        waiting: see `wait`.
        handed_on: bytes from a stage to the next, see `passed_on`.
    """
    micro_batches = run.global_batch // (run.micro_batch * data)
    rate = EXPERT_EFFICIENCY if MOE in parent.types else EFFICIENCY
    products = work.total / (run.gpus * gpu.flops * rate)
    t = shards.tensor
    passes = config.budgets_per_batch * (2 + (3 if shards.sequence else 2) + (2 if recompute else 0))
    passes += 2 if config.distill.taught else 0
    stream = HALF * parent.hidden * run.seq_length * run.micro_batch / shards.context * (t - 1) / t
    tensor = micro_batches * passes * (parent.num_layers / pipeline + 1) * stream / gpu.nvlink
    tensor += micro_batches * exchanged(parent, config, run, shards, recompute) / pipeline / gpu.nvlink
    data *= shards.context
    link = gpu.network if run.gpus > run.node else gpu.nvlink
    reduction = (SUMS[run.gradients] + HALF) * (parameters - experts) * (data - 1) / data / link
    if experts:
        replicas = t * data / shards.expert
        reduction += (SUMS[run.gradients] + HALF) * experts * (replicas - 1) / replicas / link
        near = run.gpus <= run.node or run.node % shards.expert == 0
        sent = dispatched(parent, config, run, shards, recompute) / pipeline
        tensor += micro_batches * sent / (gpu.nvlink if near else gpu.network)
    between = 2 * handed_on * micro_batches / link if pipeline > 1 else 0.0
    return ((products + tensor) * waiting + between) * (1 + (pipeline - 1) / micro_batches) + reduction
