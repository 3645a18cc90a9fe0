# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The same steps on a GPU that is there: one rank of a layout, whose other ranks answer with what it sends itself."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_iter

from tests.fake_gpu import gpu
from tests.fake_gpu.cases import GIB, steps_of
from tests.fake_gpu.meter import Meter
from tests.workers import ROOT

TABLE = ROOT / "docs" / "tables" / "fake_gpu.md"
#: figures of a job -> column of the table that has what the stand-in counted
COLUMNS = {"kept": "kept", "peak": "peak of each step", "launches": "launches, whole"}


class Allocated(Meter):
    """Bytes are those of CUDA's allocator; collectives of ranks that are not there have numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func.namespace == "c10d" and len(args) > 1:
            for to, own in zip(*(list(tree_iter(side)) for side in args[:2]), strict=False):
                if isinstance(to, torch.Tensor) and isinstance(own, torch.Tensor):
                    answer(to, own)
        return out

    def now(self) -> tuple[int, int]:
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()

    def clear(self) -> None:
        super().clear()
        torch.cuda.reset_peak_memory_stats()


def answer(to: torch.Tensor, own: torch.Tensor) -> None:
    """Fill what a rank receives with what it sent: each of several ranks sent the same, or the first part is its own.

    Nothing is allocated. What is never written may be NaN, and the guard would then skip the optimizer's step.
    """
    if to.numel() > own.numel() and to.numel() % own.numel() == 0:
        to.view(-1, own.numel()).copy_(own.reshape(1, -1))
    elif to.numel() <= own.numel():
        to.copy_(own.reshape(-1)[: to.numel()].view_as(to))


def install(rank: int, world: int) -> None:
    """Make this process one rank of so many, with the one GPU of this machine."""
    gpu.replace_ranks(rank, world, local=0)
    torch.cuda.device_count = gpu.always(8)  # hosts compare it with the GPUs of a node


def expected(name: str) -> dict[str, str]:
    """What the stand-in counted of a job, by column of the table."""
    out: dict[str, str] = {}
    head: list[str] = []
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "job":
            head = cells
        elif cells[0] == name:
            out |= dict(zip(head, cells, strict=True))
    return out


def side_by_side(name: str, result: dict[str, Any]) -> str:
    """Figures of a job on this GPU, each beside the one of the stand-in, and `plan`'s peak."""
    steps, known = steps_of(result), expected(name)
    own = {
        "kept": f"{steps[-1]['live'] / GIB:.1f}",
        "peak": ", ".join(f"{step['peak'] / GIB:.1f}" for step in steps),
        "launches": str(steps[-1]["launches"]),
    }
    plan = f"{result['planned']['total'] / GIB:.1f} GiB"
    lines = [f"{name} ({result['layout']}), plan {plan}, {result['seconds']} s"]
    lines += [f"  {each}: {value} (expected {known.get(COLUMNS[each], 'nothing')})" for each, value in own.items()]
    return "\n".join(lines)
