# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A computed table for a GPU that is not available: the longer of compute time and memory time of a layer."""

from __future__ import annotations

from nemo_elastic.core.cost import DTYPE_BYTES, active_parameters, cache_elements, flops_per_token, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import EXPERTS, MOE, TOP_K
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.core.latency import DECODE, OUTSIDE, PREFILL, LatencyTable, Workload
from nemo_elastic.plan.machine import EFFICIENCY, GPUS, Gpu

from .measure import Cell, Widths, cells, empty_table, layer_of

__all__ = ["COMPUTED", "READ", "ROOFLINE", "on_paper"]

COMPUTED, ROOFLINE = "computed", "roofline"
#: share of the peak bandwidth that reading weights and caches reaches. An assumption, as `EFFICIENCY` is.
READ = 0.7


def on_paper(parent: Parent, widths: Widths, work: Workload, gpu: str) -> LatencyTable:
    """The table of one GPU of a kind, by its data sheet.

    A phase takes the longer of its FLOPs at `EFFICIENCY` of the peak rate in bf16, and its bytes at `READ` of the peak
    bandwidth: weights once a step (of experts those that some token of the step is sent to, if tokens choose evenly)
    and the cache of every sequence. Other time of a step is not included. `gpu` is a key of `plan.machine.GPUS`.
    """
    table = empty_table(parent, widths, COMPUTED, ROOFLINE, work)
    table["hardware"] = gpu
    for cell in cells(widths):
        for phase, seconds in _seconds(parent, cell, work, GPUS[gpu]).items():
            table["grids"][cell.kind][phase][cell.place] = seconds
    for grid in table["grids"].values():
        del grid["bounds"]
    return LatencyTable.read("table", table)


def _seconds(parent: Parent, cell: Cell, work: Workload, gpu: Gpu) -> dict[str, float]:
    outside, bare = cell.kind == OUTSIDE, Subnet(cell.widths[HIDDEN], ())
    member, middle = bare if outside else layer_of(parent, cell), work.prompt + work.answer // 2
    out = {}
    # tokens per sequence, and twice the mean context: `flops_per_token` counts attention over half of the length
    for phase, tokens, length in ((PREFILL, work.prompt, work.prompt), (DECODE, 1, 2 * middle)):
        flops = flops_per_token(parent, member, length)
        flops -= 0 if outside else flops_per_token(parent, bare, length)
        done = work.batch * (1 if outside else tokens) * flops  # the head runs only for the last token
        read = DTYPE_BYTES[work.dtype] * _weights_read(parent, cell, member, bare, work.batch * tokens)
        if phase == DECODE and not outside:
            cache = cache_elements(parent, member, work.batch, middle)
            read += DTYPE_BYTES["bf16"] * (cache["kv"] + cache["conv"]) + 2 * DTYPE_BYTES["fp32"] * cache["ssm"]
        out[phase] = float(max(done / (gpu.flops * EFFICIENCY), read / (gpu.bandwidth * READ)))
    return out


def _weights_read(parent: Parent, cell: Cell, member: Subnet, bare: Subnet, tokens: int) -> float:
    """Weights that a step reads: the embedding rows of the tokens, and the experts that tokens are routed to."""
    if cell.kind == OUTSIDE:
        return parent.vocab * member.hidden
    every = parameters(parent, member) - parameters(parent, bare)
    if cell.kind != MOE:
        return every
    used = active_parameters(parent, member) - active_parameters(parent, bare)
    chosen, there = cell.widths.get(TOP_K, parent.size(TOP_K)), cell.widths[EXPERTS]
    met = there * (1 - (1 - chosen / there) ** tokens)
    expert = 0.0 if chosen == there else (every - used) / (there - chosen)
    return used + (met - chosen) * expert
