# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every parallel layout of a run with its memory and time, whether it fits, and the duration of a training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import AxisConfig
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.io.values import three_digits
from nemo_elastic.kernels import check_widths

from .activations import Sharding
from .candidate import Candidate
from .machine import GPUS, RunShape
from .memory import Memory, stage_memory, stages
from .work import Work, members, seconds, slow_seconds, step_work, wait

__all__ = ["Duration", "Layout", "best", "choose", "duration", "expert_sizes", "layout_name", "layouts", "why_not"]

#: pipeline-parallel sizes above this are not tried
MOST_STAGES = 16
#: share of a step's time that its estimate cannot tell apart
BLUR = 0.015


def layout_name(
    tensor: int,
    pipeline: int,
    data: int,
    sequence_parallel: bool,
    recompute: bool,
    expert: int | None = None,
    context: int = 1,
) -> str:
    """A layout in words, such as TP4 PP1 DP32 SP recompute, TP1 PP1 DP32 EP8 or TP2 CP4 PP1 DP16; see `Layout`."""
    parts = [f"TP{tensor}", *([] if context == 1 else [f"CP{context}"]), f"PP{pipeline}", f"DP{data}"]
    parts += [] if expert is None else [f"EP{expert}"]
    return " ".join([*parts, *["SP"] * sequence_parallel, *["recompute"] * recompute])


@dataclass(frozen=True)
class Layout:
    """One way to lay a run out on GPUs.

    Attributes:
        tensor: tensor-parallel size; pipeline: stages; data: replicas. Their product with `context` is the number of
            GPUs.
        sequence_parallel: the residual stream is divided over tensor-parallel ranks.
        recompute: every layer's activations are computed again in the backward pass (recompute_granularity "full").
        memory: per GPU, of the fullest stage.
        work: FLOPs of a step; seconds: its time at the assumed rate; seconds_high: at the lowest published rate.
        fits: the memory is enough; reason: the figures, in words.
        expert: ranks that share a layer's experts, of the tensor x data x context ones of a stage; None without.
        context: ranks that share sequences out.
    """

    tensor: int
    pipeline: int
    data: int
    sequence_parallel: bool
    recompute: bool
    memory: Memory
    work: Work
    seconds: float
    seconds_high: float
    fits: bool
    reason: str
    expert: int | None = None
    context: int = 1

    def utilization(self, gpu: str) -> tuple[float, float]:
        """Shares of a GPU's peak rate that `seconds` and `seconds_high` assume (MFU), recomputation not counted."""
        peak = self.replica * self.data * GPUS[gpu].flops
        shares = (
            (self.work.student + self.work.teacher) / (peak * time) for time in (self.seconds, self.seconds_high)
        )
        return next(shares), next(shares)

    @property
    def replica(self) -> int:
        """Ranks that hold one model together."""
        return self.tensor * self.pipeline * self.context

    def __str__(self) -> str:
        sizes = self.tensor, self.pipeline, self.data
        return layout_name(*sizes, self.sequence_parallel, self.recompute, self.expert, self.context)

    def to_json(self) -> dict[str, Any]:
        """Give what `plan --json` prints of it."""
        experts = {"expert_model_parallel_size": self.expert, "expert_tensor_parallel_size": 1}
        return {
            "tensor_model_parallel_size": self.tensor,
            "pipeline_model_parallel_size": self.pipeline,
            **({} if self.expert is None else experts),
            "context_parallel_size": self.context,
            "data_parallel_size": self.data,
            "sequence_parallel": self.sequence_parallel,
            "recompute": self.recompute,
            "memory": self.memory.to_json(),
            "flops": self.work.to_json(),
            "seconds": self.seconds,
            "seconds_high": self.seconds_high,
            "fits": self.fits,
            "reason": self.reason,
        }


def expert_sizes(parent: Parent) -> tuple[int, ...]:
    """Expert-parallel sizes with which ranks hold as many experts of every member: divisors of the axis's blocks.

    Args:
        parent: shape with the block's stripes.

    Returns:
        1 alone where there are no experts.
    """
    axes = _dealt(parent)
    if not axes:
        return (1,)
    blocks = math.gcd(*(parent.axis(axis).blocks for axis in axes))
    return tuple(n for n in range(1, blocks + 1) if blocks % n == 0)


def _dealt(parent: Parent) -> set[str]:
    """Axes whose channels are modules (experts), which expert parallelism distributes."""
    return {row.each for kind in parent.kinds for row in kind.rows if row.each is not None}


def why_not(candidate: Candidate) -> str | None:
    """What forbids the parallel sizes of a candidate, in words; None where nothing does."""
    parent, config, run, pipeline = candidate.parent, candidate.config, candidate.run, candidate.pipeline
    tensor, expert, context = candidate.shards.tensor, candidate.shards.expert, candidate.shards.context
    dealt = _dealt(parent)
    for axis in (axis for kind in parent.kinds for axis in kind.axes if axis.blocks is not None):
        if axis.name in dealt or axis.each in dealt:  # an expert is whole on its rank
            continue
        blocks = parent.axis(axis.name).blocks
        if blocks % tensor:
            return f"TP {tensor} does not divide the {blocks} blocks of {axis.name}"
    if parent.vocab % tensor:
        return f"TP {tensor} does not divide the vocabulary of {parent.vocab}"
    ranks_per_layer, apart = candidate.ranks_per_layer, _why_not_in_a_node(candidate)
    if apart is not None:
        return apart
    if parent.num_layers % pipeline:
        return f"PP {pipeline} does not divide {parent.num_layers} layers"
    if run.gpus % (ranks_per_layer * pipeline):
        return f"TP {tensor} x CP {context} x PP {pipeline} does not divide {run.gpus} GPUs"
    data = candidate.data
    if ranks_per_layer * data % expert:
        return f"EP {expert} does not divide the {ranks_per_layer * data} ranks of a stage"
    if dealt and tensor > 1 and not _sequence_divides(candidate):
        return f"TP {tensor} does not divide the length, and with experts it needs sequence parallelism"
    if run.global_batch % (run.micro_batch * data):
        return f"{data} data-parallel ranks x {run.micro_batch} do not divide the global batch {run.global_batch}"
    if run.kernels:
        try:
            check_widths(parent, config.resolve_axes(parent), ranks_per_layer)
        except ElasticError as error:
            return error.message
    return None


def _why_not_in_a_node(candidate: Candidate) -> str | None:
    """Why tensor x context parallel ranks are not allowed, or None; they must share a node."""
    run, ranks_per_layer = candidate.run, candidate.ranks_per_layer
    tensor, context = candidate.shards.tensor, candidate.shards.context
    if ranks_per_layer > run.node or (run.gpus > run.node and run.node % ranks_per_layer):
        return f"TP {tensor}{f' x CP {context}' if context > 1 else ''} leaves a node of {run.node} GPUs"
    if context > 1 and run.seq_length % (2 * context):
        return f"2 x CP {context} does not divide the length"
    return why_not_context(candidate.parent, candidate.config.resolve_axes(candidate.parent), tensor, context)


def why_not_context(parent: Parent, axes: Mapping[str, AxisConfig], tensor: int, context: int) -> str | None:
    """Why a context-parallel size is not allowed, in words; None if it is.

    Every member must be divided equally: Mamba into whole groups, as a group's norm is over all of its heads;
    attention into key-value heads, or the query heads of one key-value head.

    Args:
        parent: shape of the parent.
        axes: choices of widths, `ElasticConfig.resolve_axes(parent)`.
        tensor: tensor-parallel size, which divides all blocks.
        context: the size.
    """
    if context == 1:
        return None
    for kind in parent.kinds:
        if kind.cp_axis is None:
            continue
        heads = kind.axis[kind.cp_axis]
        assert heads.blocks is not None
        whole = parent.size(heads.blocks)
        for blocks in _choices(parent, axes, heads.blocks):
            per_rank = blocks // tensor
            if per_rank % context == 0:
                continue
            if not kind.cp_splits_groups or context % per_rank:
                return f"CP {context} does not divide {per_rank} {heads.block_words} of a rank"
            for choice in _choices(parent, axes, heads.name):
                count = choice * blocks // whole // tensor
                if count % context:
                    return f"CP {context} does not divide {count} {heads.words} of a rank"
    return None


def _choices(parent: Parent, axes: Mapping[str, AxisConfig], name: str) -> tuple[int, ...]:
    return axes[name].choices if name in axes else (parent.size(name),)


def layouts(parent: Parent, config: ElasticConfig, run: RunShape) -> list[Layout]:
    """Every layout that the code runs, the fastest first by estimate.

    Args:
        parent: shape of the parent.
        config: the `elastic:` block.
        run: lengths, batches and machine.

    Returns:
        Layouts at all tensor- and context-parallel sizes of one node and all pipeline- and expert-parallel sizes that
        the block allows, with and without sequence parallelism and activation recomputation. With experts tensor
        parallelism comes with sequence parallelism only, as megatron-core has it. Not all of them fit: see
        `Layout.fits`.

    Raises:
        ElasticError: The block does not fit the parent, or no layout is possible with this batch and this many GPUs.
    """
    parent = config.parent_shape(parent)
    family, dealt = members(parent, config), bool(_dealt(parent))
    out, reasons = [], []
    for candidate in _candidates(parent, config, run):
        reason, shards = why_not(candidate), candidate.shards
        if reason is not None:
            reasons.append(reason)
            continue
        for sequence in (True, False) if shards.tensor > 1 and _sequence_divides(candidate) else (False,):
            if dealt and shards.tensor > 1 and not sequence:
                continue
            for recompute in (False, True):
                varied = replace(candidate, shards=replace(shards, sequence=sequence), recompute=recompute)
                out.append(_layout(varied, family, shards.expert if dealt else None))
    if not out:
        raise ElasticError(f"no layout is possible on {run.gpus} GPUs: {'; '.join(dict.fromkeys(reasons))}")
    return sorted(out, key=lambda layout: (layout.seconds, layout.memory.total))


def _sequence_divides(candidate: Candidate) -> bool:
    """Whether tensor-parallel ranks can share what context-parallel ones have of a sequence."""
    tensor, context = candidate.shards.tensor, candidate.shards.context
    return candidate.run.seq_length % (tensor * (2 * context if context > 1 else 1)) == 0


def _candidates(parent: Parent, config: ElasticConfig, run: RunShape) -> Iterable[Candidate]:
    """Tensor-, context-, pipeline- and expert-parallel sizes that are tried."""
    most = min(run.node, run.gpus)
    for tensor in range(1, most + 1):
        for context in range(1, most // tensor + 1):
            for pipeline in range(1, min(MOST_STAGES, run.gpus // (tensor * context)) + 1):
                for expert in expert_sizes(parent):
                    shards = Sharding(tensor, False, expert, context, run.routing)
                    yield Candidate(parent, config, run, shards, pipeline)


def choose(every: Sequence[Layout]) -> Layout | None:
    """The smallest layout of those that fit and are as fast as the fastest, up to the share `BLUR` of its time.

    Args:
        every: layouts, the fastest first.

    Returns:
        None where none fits.
    """
    fitting = [layout for layout in every if layout.fits]
    as_fast = [layout for layout in fitting if layout.seconds <= (1 + BLUR) * fitting[0].seconds]
    return min(as_fast, key=lambda layout: layout.memory.total, default=None)


def best(parent: Parent, config: ElasticConfig, run: RunShape) -> Layout:
    """What `choose` takes.

    Raises:
        ElasticError: None fits; the message has the smallest one's figures.
    """
    every = layouts(parent, config, run)
    chosen = choose(every)
    if chosen is not None:
        return chosen
    least = min(every, key=lambda layout: layout.memory.total)
    raise ElasticError(
        f"no layout fits {run.gpus} {run.gpu.upper()}: {least} {least.reason}; use more or larger GPUs, "
        "a shorter sequence or a smaller micro-batch"
    )


def _layout(candidate: Candidate, family: Mapping[str, Subnet], expert: int | None) -> Layout:
    """What a candidate takes; `expert` is its expert-parallel size, None without experts."""
    run, shards, pipeline = candidate.run, candidate.shards, candidate.pipeline
    every = (stage_memory(candidate, stage) for stage in stages(candidate.parent, pipeline))
    memory = max(every, key=lambda m: m.total)
    work = step_work(candidate, family)
    fits = memory.total <= run.usable
    fast = seconds(candidate, work, wait(candidate, family))
    needs = f"needs {memory.total / 1e9:.1f} GB of {run.usable / 1e9:.1f} usable"
    return Layout(
        shards.tensor,
        pipeline,
        candidate.data,
        shards.sequence,
        candidate.recompute,
        memory,
        work,
        fast,
        max(fast, slow_seconds(candidate, work)),
        fits,
        needs if fits else f"{needs}; most of it {memory.largest}",
        expert,
        shards.context,
    )


@dataclass(frozen=True)
class Duration:
    """A training of so many steps, without validation, saves and starts.

    Attributes:
        steps: optimizer steps.
        hours: at the assumed rate; hours_high: at the lowest published rate.
        gpu_hours, gpu_hours_high: those of all GPUs together.
    """

    steps: int
    hours: float
    hours_high: float
    gpu_hours: float
    gpu_hours_high: float

    def __str__(self) -> str:
        hours = f"{three_digits(self.hours)} to {three_digits(self.hours_high)} hours"
        return f"{self.steps:,} steps in {hours}, {self.gpu_hours:,.0f} to {self.gpu_hours_high:,.0f} GPU-hours"

    def __add__(self, after: Duration) -> Duration:
        return Duration(*(getattr(self, f.name) + getattr(after, f.name) for f in fields(self)))


def duration(layout: Layout, steps: int) -> Duration:
    """The time that a layout takes for so many steps."""
    hours, high = layout.seconds * steps / 3600, layout.seconds_high * steps / 3600
    gpus = layout.replica * layout.data
    return Duration(steps, hours, high, gpus * hours, gpus * high)
