# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step at each member's size in a hybrid with experts: sliced, masked, and the model of that size.

As `bench_step` times it, and with its code. A token meets some of the experts alone, so what a step's cost is held
against is the share of the active parameters. Experts are computed as training computes them, those of a layer in
grouped products of slices; the model of a member's size has the same layers without elasticity. One member has
half of the experts and is whole otherwise: a token meets as much, so its step must take as long.

In Megatron-Bridge's environment, since experts in hybrids exist on its megatron-core alone:

    .venv-bridge/bin/python -m benchmarks.bench_step_experts [--rounds 7] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import torch

from benchmarks.bench_slice_experts import striped_as_the_30b
from benchmarks.bench_step import measure, rounds, size_of, table
from benchmarks.output import arguments, deliver
from nemo_elastic.core.family import Parent, Subnet
from tests.support.models import start

#: experts take most of the parameters, and with the shared one more than half of those that a token meets
PARENT = striped_as_the_30b(Parent(
    "MEM*EMEM*E", 384, 1024, mamba_heads=24, mamba_head_dim=32, mamba_groups=4, state=16, attention_heads=12,
    kv_heads=4, attention_head_dim=32,
    experts=32, expert_ffn=384, shared_ffn=768, top_k=4, routed_scaling=2.5,
))  # fmt: skip
TOKENS = (8, 256)
#: allowed: sliced / full step above the share of active parameters
ABOVE = 0.10


def members() -> dict[str, Subnet]:
    """Half of the experts alone; then about 0.75 and 0.50 of the active parameters, with all experts."""
    return {
        "1.00": PARENT.full,
        "half of the experts": PARENT.uniform(experts=16),
        "0.75": PARENT.uniform(hidden=336, expert_ffn=320, shared_ffn=640, mamba_heads=20, attention_heads=12),
        "0.50": PARENT.uniform(hidden=288, expert_ffn=240, shared_ffn=480, mamba_heads=16, attention_heads=8),
    }


def main() -> None:
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=rounds, default=7)
    args = parser.parse_args()
    start()
    torch.set_num_threads(2)
    with cuda_as_cpu():  # the dispatcher names CUDA
        rows = measure(PARENT, members(), TOKENS, args.rounds)
    page = f"{size_of(PARENT)}, {TOKENS[0]} x {TOKENS[1]} tokens:\n\n{table(rows, 'active parameters', ABOVE)}"
    deliver(args, rows, page)


if __name__ == "__main__":
    main()
