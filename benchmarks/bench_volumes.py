# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes that a rank puts into collectives in one micro-batch of a step, by layout and member.

Counted is the larger side of each call, in forward, backward and the reduction of gradients; a student alone, without
teacher and loss. What ranks of a layer exchange shrinks with the member that runs; gradients are reduced whole, in the
buckets that megatron-core has. In Megatron-Bridge's environment:

    .venv-bridge/bin/python -m benchmarks.bench_volumes [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.output import arguments, deliver
from nemo_elastic.core.family import Parent, Subnet
from tests.support.models import build, distributed, start
from tests.support.ranks import spawn

DENSE = Parent("M-M*-M-", 128, 1024, 512, 16, 16, 4, 16, 4, 8, 4, 16, ffn_stripes=4)
EXPERTS = Parent(
    "MEM*E", 64, 256, mamba_heads=8, mamba_head_dim=16, mamba_groups=4, state=16, attention_heads=4, kv_heads=2,
    attention_head_dim=16, experts=16, expert_ffn=64, shared_ffn=64, top_k=6, routed_scaling=2.5, experts_stripes=2,
)  # fmt: skip
BATCH, LENGTH = 2, 256
RANKS = 2
#: layout -> parent, settings of `start`
LAYOUTS: dict[str, tuple[Parent, dict[str, int]]] = {
    "DP 2": (DENSE, {}),
    "TP 2 with SP": (DENSE, {"tensor": RANKS}),
    "CP 2": (DENSE, {"context": RANKS}),
    "DP 2, EP 2": (EXPERTS, {"expert": RANKS}),
}
#: c10d's operations -> what they are
KINDS = {
    "allreduce_": "all-reduce", "_allgather_base_": "all-gather", "allgather_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter", "reduce_scatter_": "reduce-scatter",
    "alltoall_base_": "all-to-all", "alltoall_": "all-to-all",
    "allreduce_coalesced_": "all-reduce", "reduce_scatter_tensor_coalesced_": "reduce-scatter",
}  # fmt: skip


class Volumes(TorchDispatchMode):
    """Bytes by kind of collective."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and (kind := KINDS.get(func.overloadpacket.__name__)):
            sides = [sum(t.nbytes for t in tree_leaves(side) if isinstance(t, torch.Tensor)) for side in args[:2]]
            self.bytes[kind] += max(sides)
        return func(*args, **(kwargs or {}))


def members(parent: Parent) -> dict[str, Subnet | None]:
    """The whole model, and one of half its widths."""
    own = {"experts": 8, "expert_ffn": 32} if parent.has("experts") else {"ffn": parent.ffn // 2}
    return {
        "full": None,
        "half": parent.uniform(hidden=parent.hidden // 2, mamba_heads=parent.mamba_heads // 2, **own),
    }


def worker(rank: int, port: int, name: str, out: Path) -> None:
    """Count on one rank; the first one writes."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    parent, settings = LAYOUTS[name]
    start(rank, RANKS, port=port, **settings)
    model = build(parent, sequence_parallel="tensor" in settings, seed=rank)
    wrapped, seen = distributed(model), {}
    length = LENGTH // settings.get("context", 1)
    tokens = torch.randint(0, parent.vocab, (BATCH, length), generator=torch.Generator().manual_seed(rank))
    for member, choice in members(parent).items():
        model.state.choice = choice
        wrapped.zero_grad_buffer()
        with cuda_as_cpu(), Volumes() as volumes:
            wrapped(tokens, None, None).square().mean().backward()
            wrapped.finish_grad_sync()
        seen[member] = dict(volumes.bytes)
    if rank == 0:
        out.write_text(json.dumps(seen))


def main() -> None:
    args = arguments(__doc__).parse_args()
    figures: dict[str, dict[str, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "volumes.json"
        for name in LAYOUTS:
            spawn(worker, name, out, world=RANKS)
            figures[name] = json.loads(out.read_text())
    kinds = list(dict.fromkeys(KINDS.values()))
    lines = [
        f"| layout | member | {' | '.join(f'{kind}, KiB' for kind in kinds)} |",
        "|---|---|" + "---:|" * len(kinds),
    ]
    for name, seen in figures.items():
        for member, volumes in seen.items():
            cells = [f"{volumes[kind] / 1024:.0f}" if kind in volumes else "" for kind in kinds]
            lines.append(f"| {name} | {member} | {' | '.join(cells)} |")
    deliver(args, figures, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
