# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The memory of a training step at its fullest moment: by the planner, and measured.

Blocks of real widths and real routers, the fullest layer last, as it is near the end of a whole model, with fewer
layers, rows of vocabulary and experts, so that a machine without a GPU holds them: student, sums of gradients, Adam's
states, frozen teacher, and a distillation step. Every storage is counted, by its bytes. In Megatron-Bridge's
environment:

    .venv-bridge/bin/python -m benchmarks.bench_plan_memory [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.output import arguments, deliver, markdown
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.budget import AxisConfig, Budget
from nemo_elastic.core.family import Parent
from nemo_elastic.plan import Candidate, RunShape, preset
from nemo_elastic.plan.activations import Routing, Sharding
from nemo_elastic.plan.memory import Memory, stage_memory, stages
from tests.plan.measuring import ROUTINGS, model_of, step_peak
from tests.support.models import start

DISTILL = DistillConfig(chunk_tokens=1024)
GIB, GOAL = 2**30, 0.03


@dataclass(frozen=True)
class Block:
    """Args: what it is of, its shape, tokens of a micro-batch, and whether layers are computed again."""

    of: str
    parent: Parent
    tokens: int
    recompute: bool = False

    @property
    def routing(self) -> tuple[dict[str, Any], Routing]:
        """Settings of the recipe's router, and how the planner knows them."""
        return ROUTINGS["the recipe's"] if self.parent.has("experts") else ({}, Routing())


def _small(name: str, **sizes: Any) -> Parent:
    whole = preset(name)
    return replace(whole, vocab=4096, **sizes)


def blocks() -> list[Block]:
    dense = _small("nemotron-nano-12b-v2", pattern="-*M")
    experts = replace(_small("nemotron-3-nano-30b-a3b", pattern="E*EM"), experts=16)
    kept = [Block("12B", dense, 1024), Block("30B-A3B, 16 experts", experts, 2048)]
    return [replace(block, recompute=recompute) for block in kept for recompute in (False, True)]


def planned(block: Block) -> Memory:
    """By the formulas, on one rank without kernels of CUDA."""
    (stage,) = stages(block.parent, 1)
    run = RunShape(block.tokens, 1, gpus=1, kernels=False, routing=block.routing[1])
    config = ElasticConfig(
        (Budget("half", ratio=0.5),), {"hidden": AxisConfig((block.parent.hidden,))}, distill=DISTILL
    )
    shards = Sharding(routing=run.routing)
    return stage_memory(Candidate(block.parent, config, run, shards, recompute=block.recompute), stage)


def nbytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def measured(block: Block) -> int:
    """Bytes of a real step at its fullest moment."""
    model = model_of(block.parent, block.recompute, **block.routing[0])
    peak = step_peak(model, block.parent, 1, block.tokens, DISTILL)
    weights, sums = nbytes(model.parameters()), nbytes(p.main_grad for p in model.parameters())
    # the teacher has the student's weights; the optimizer's copy and both moments are as large as the sums
    return 2 * weights + (1 + 3) * sums + peak


def main() -> None:
    args = arguments(__doc__).parse_args()
    start()
    rows, results, missed = [], [], []
    for block in blocks():
        plan, found = planned(block), measured(block)
        if abs(plan.total / found - 1) > GOAL:
            missed.append(f"{block.of}: {plan.total / found - 1:+.1%}")
        results.append({"block": block.of, "pattern": block.parent.pattern, "recompute": block.recompute,
                        "planned": plan.to_json(), "measured": found})  # fmt: skip
        rows.append([
            block.of, f"`{block.parent.pattern}`", f"{block.tokens}", "recomputed" if block.recompute else "kept",
            f"{plan.total / GIB:.2f}", f"{found / GIB:.2f}", f"{plan.total / found - 1:+.1%}",
            f"{(plan.activations + max(plan.loss, plan.transient)) / plan.total:.0%}",
        ])  # fmt: skip
    head = ["block of", "layers", "tokens", "activations", "planned GiB", "measured GiB", "apart", "of it activations"]
    deliver(args, results, markdown(head, rows), missed)


if __name__ == "__main__":
    main()
