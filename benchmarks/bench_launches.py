# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Operations that a step of a hybrid with experts calls: each expert's products by themselves, and grouped.

Counted is what torch is called for and computes something, in forward and backward, without views and fresh memory:
on a GPU about as many kernels. A grouped product is one of them (on a CPU torch runs a loop within it, so this says
nothing about a CPU's time). In Megatron-Bridge's environment:

    .venv-bridge/bin/python -m benchmarks.bench_launches [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.output import arguments, deliver
from nemo_elastic.core.family import Parent, Subnet
from tests.support.models import build, distributed, start

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPERTS = (16, 64, 128)
TOKENS = (2, 64)
FRESH = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "lift_fresh")


class Calls(TorchDispatchMode):
    """Counts operations that compute something, and among them products."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in FRESH:
            self.all += 1
            self.products += name in ("mm", "addmm", "addmm_", "bmm", "_grouped_mm")
        return func(*args, **(kwargs or {}))


def parent(experts: int) -> Parent:
    """Two layers with experts, of which a token meets six, between two Mamba layers and one with attention."""
    return Parent(
        "MEM*E", 64, 256, mamba_heads=8, mamba_head_dim=16, mamba_groups=4, state=16, attention_heads=4, kv_heads=2,
        attention_head_dim=16, experts=experts, expert_ffn=64, shared_ffn=64, top_k=6, routed_scaling=2.5,
    )  # fmt: skip


@contextmanager
def products(grouped: bool) -> Iterator[None]:
    """With torch's grouped product, or as on a torch that has none."""
    from nemo_elastic.megatron import experts

    with patch.object(experts, "GROUPED", experts.GROUPED if grouped else None):
        yield


def count(whole: Parent, member: Subnet | None) -> dict[str, int]:
    """Operations and products of one step of a member, None for all of the model, in both ways."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    model = build(whole, bf16=True, params_dtype=torch.bfloat16).bfloat16()  # buffers stay fp32
    wrapped = distributed(model)
    tokens = torch.randint(0, whole.vocab, TOKENS, generator=torch.Generator().manual_seed(0))
    model.state.choice, counted = member, {}
    for grouped in (False, True):
        wrapped.zero_grad_buffer()
        with cuda_as_cpu(), products(grouped), wrapped.no_sync(), Calls() as calls:
            model(tokens, None, None).square().mean().backward()
        way = "grouped" if grouped else "one by one"
        counted |= {way: calls.all, f"products {way}": calls.products}
    return counted


def main() -> None:
    args = arguments(__doc__).parse_args()
    start()
    rows = []
    for experts in EXPERTS:
        whole = parent(experts)
        for name, member in (("full", None), ("half", whole.uniform(hidden=48, experts=experts // 2, expert_ffn=32))):
            rows.append({"experts of a rank": experts, "member": name, **count(whole, member)})
    for row in rows:
        row["share"] = row["grouped"] / row["one by one"]
    head = list(rows[0])
    cells = [[f"{row[key]:.2f}" if key == "share" else str(row[key]) for key in head] for row in rows]
    lines = ["| " + " | ".join(each) + " |" for each in (head, ["---"] * len(head), *cells)]
    deliver(args, rows, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
