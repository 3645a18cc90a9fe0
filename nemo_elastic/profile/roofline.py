# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A table on paper, for a GPU that is not at hand: what a layer must compute and read, whichever takes longer."""

from __future__ import annotations

from typing import Any

from nemo_elastic.core.cost import DTYPE_BYTES, active_parameters, cache_elements, flops_per_token, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import EXPERTS, MOE, TOP_K
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.core.latency import DECODE, OUTSIDE, PHASES, PREFILL, LatencyTable, Workload
from nemo_elastic.plan.machine import EFFICIENCY, GPUS, Gpu

from .cells import Cell, cells, layer_of
from .making import Widths, empty_table, put

__all__ = ["COMPUTED", "READ", "ROOFLINE", "on_paper"]

COMPUTED, ROOFLINE = "computed", "roofline"
#: share of the peak bandwidth that reading weights and caches reaches. An assumption, as `EFFICIENCY` is.
READ = 0.7


def on_paper(parent: Parent, widths: Widths, work: Workload, gpu: str) -> LatencyTable:
    """The table of one GPU of a kind, by its data sheet.

    A phase takes the longer of its FLOPs at `EFFICIENCY` of the peak rate in bf16, and its bytes at `READ` of the peak
    bandwidth: weights once a step (of experts those that some token of the step is sent to, if tokens choose evenly)
    and the cache of every sequence. What a step takes beside is not in it.

    Args:
        parent: whose layers.
        widths: of `cells.widths_of`.
        work: what is served.
        gpu: a key of `plan.machine.GPUS`.
    """
    table = empty_table(parent, widths, COMPUTED, ROOFLINE, work)
    table |= {"hardware": gpu, "versions": {}}
    for cell in cells(widths):
        for phase, seconds in _seconds(parent, cell, work, GPUS[gpu]).items():
            put(table, cell, phase, seconds)
    for grid in table["grids"].values():
        del grid["bounds"]
    return LatencyTable.read("table", table)


def _seconds(parent: Parent, cell: Cell, work: Workload, gpu: Gpu) -> dict[str, float]:
    bare = Subnet(cell.widths[HIDDEN], ())
    if cell.kind == OUTSIDE:
        member, less = bare, None
    else:
        member, less = layer_of(parent, cell), bare

    def own(count: Any) -> float:
        return float(count(member) - (count(less) if less is not None else 0))

    width = DTYPE_BYTES[work.dtype]
    tokens = {PREFILL: work.batch * work.prompt, DECODE: work.batch}
    length = {PREFILL: work.prompt, DECODE: 2 * (work.prompt + work.answer // 2)}  # of which half is looked at
    out = {}
    for phase in PHASES:
        logits = 1 if cell.kind == OUTSIDE and phase == PREFILL else tokens[phase] / work.batch
        done = own(lambda m, phase=phase: flops_per_token(parent, m, length[phase])) * work.batch * logits
        read = width * _read(parent, cell, member, less, tokens[phase])
        if phase == DECODE and less is not None:
            held = cache_elements(parent, member, work.batch, work.prompt + work.answer // 2)
            read += DTYPE_BYTES["bf16"] * (held["kv"] + held["conv"]) + 2 * DTYPE_BYTES["fp32"] * held["ssm"]
        out[phase] = max(done / (gpu.flops * EFFICIENCY), read / (gpu.bandwidth * READ))
    return out


def _read(parent: Parent, cell: Cell, member: Subnet, less: Subnet | None, tokens: float) -> float:
    """Weights that a step reads: of the embedding only what is looked up, of experts those that a token is sent to."""
    if less is None:
        return float(parent.vocab * member.hidden)
    every = parameters(parent, member) - parameters(parent, less)
    if cell.kind != MOE:
        return float(every)
    used = active_parameters(parent, member) - active_parameters(parent, less)
    chosen, there = parent.size(TOP_K), cell.widths[EXPERTS]
    met = there * (1 - (1 - chosen / there) ** tokens)
    expert = 0.0 if chosen == there else (every - used) / (there - chosen)
    return used + (met - chosen) * expert
