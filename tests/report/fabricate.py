# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A fabricated run: the demo's shape, files written by the real classes, figures like those of a real run."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import MemorySpec, memory, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.ranking import Ranking
from nemo_elastic.ranking.ranking import make_orders, names
from nemo_elastic.verdicts import closed

PARENT = Parent(
    pattern="M-M-M*-M-M*-", hidden=128, vocab=1024, ffn=512, mamba_heads=16, mamba_head_dim=16, mamba_groups=2,
    state=16, attention_heads=8, kv_heads=2, attention_head_dim=16, ffn_stripes=8,
)  # fmt: skip
BUDGETS = (Budget("1.6m"), Budget("1.1m", ratio=0.72), Budget("0.8m", ratio=0.5))
NAMES = [b.name for b in BUDGETS]
#: the parent before elastic training, and what its shape has become: after it, untrained, unsorted
BEFORE = 3.10
LOSSES = {"1.6m": (3.12, 3.10, 3.10), "1.1m": (3.21, 4.38, 6.21), "0.8m": (3.36, 5.42, 7.05)}
BIGRAM = 4.06
#: step of stage 1 at which the router's shapes are frozen
FROZEN = 52
#: seconds of the run: of its phases, and some between them
TOTAL = 216.6


def make_ranking(parent: Parent = PARENT, seed: int = 0) -> Ranking:
    rng = np.random.default_rng(seed)
    scores = {n: rng.lognormal(0, 0.5, parent.axis(axis).size) for n, axis, _ in names(parent)}
    depth = tuple(int(i) for i in rng.permutation(parent.num_layers))
    ladder = np.sort(rng.lognormal(-4, 1.4, parent.num_layers))
    return Ranking(parent, make_orders(parent, scores), scores, depth, (*map(float, ladder[:-1]), None),
                   provenance={"samples": 64, "sequences": 64, "length": 128})  # fmt: skip


def make_subnets(parent: Parent, ranking: Ranking) -> dict[str, Subnet]:
    kept = list(ranking.depth)
    return {
        "1.6m": parent.full,
        "1.1m": parent.uniform(kept[1:], hidden=112, ffn=448, mamba_heads=12, attention_heads=6),
        "0.8m": parent.uniform(kept[2:], hidden=96, ffn=320, mamba_heads=12, mamba_head_dim=14, attention_heads=4),
    }


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_metrics(path: Path, label: str, steps: int, every: int, losses, extra) -> None:
    """losses(share) and extra(step) give a line's keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(steps + 1):
        head = {"phase": label, "step": step, "tokens": step * 2048}
        if step:
            lines.append(head | {"kind": "step", "lr": 1e-3, "grad_norm": 1.0, "seconds": 0.11 * step} | extra(step))
        if step % every == 0 or step == steps:
            lines.append(head | {"kind": "heldout", "losses": losses(step / steps)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def make_run(root: Path, seed: int = 0) -> Path:
    rng = random.Random(seed)
    ranking = make_ranking()
    subnets = make_subnets(PARENT, ranking)
    elastic = root / "stage1" / "elastic"
    elastic.parent.mkdir(parents=True)
    ranking.save(elastic / "ranking")
    found = subnets | {NAMES[2]: PARENT.uniform(list(ranking.depth)[1:], hidden=80, ffn=320, mamba_heads=12)}
    to_json = lambda members: {n: s.to_json() for n, s in members.items()}  # noqa: E731
    write_json(elastic / "shapes.json", {"members": to_json(found), "report": {"source": "even"}})
    report = {"source": "router", "step": FROZEN}
    write_json(elastic / "members.json", {"members": to_json(subnets), "report": report})
    (root / "family").mkdir()
    Family.of(PARENT, subnets, budgets=BUDGETS, ranking_digest=ranking.digest,
              provenance={"made_by": "demo <&>", "stages": 2}).save(root / "family")  # fmt: skip
    write_json(root / "family" / "config.json", {"model_type": "nemotron_h", "torch_dtype": "float32"})
    write_json(
        root / "data" / "data.json", {"version": 1, "vocab_size": 1024, "splits": {"train": {"tokens": 4556353}}}
    )

    def curve(start: float, end: float, share: float, rate: float = 6.0) -> float:
        return end + (start - end) * math.exp(-rate * share) + rng.gauss(0, 0.008)

    write_metrics(
        root / "parent" / "metrics.jsonl", "parent", 900, 100,
        lambda share: {"parent": curve(6.93, 3.12, share)}, lambda step: {"reduced_train_loss": 4.0},
    )  # fmt: skip

    def shaped(step: int):
        routed = {"router_tau": 0.5} if step <= FROZEN else {}
        return {f"loss_{NAMES[step % 3]}": 0.4, "reduced_train_loss": 0.4} | routed

    def staged(first: float, spread: float):
        def losses(share: float):
            return {
                n: curve(LOSSES[n][1] * first + LOSSES[n][0] * (1 - first), LOSSES[n][0] + spread, share)
                for n in NAMES
            }

        return losses

    write_metrics(root / "stage1" / "metrics.jsonl", "stage 1", 260, 20, staged(1.0, 0.12), shaped)
    write_metrics(
        root / "stage2" / "metrics.jsonl", "stage 2", 130, 20, staged(0.08, -0.02), lambda s: {"loss_1.1m": 0.1}
    )
    whole = parameters(PARENT, PARENT.full)
    members = []
    for name, subnet in {"parent": PARENT.full, **subnets}.items():
        loss, untrained, unsorted = LOSSES.get(name, (BEFORE, None, None))
        correct = 40 - 8 * len(members)
        by_task = {"color_cube_rotation": correct // 2, "letter <b>": correct - correct // 2}
        members.append({
            "name": name, "parameters": parameters(PARENT, subnet), "ratio": parameters(PARENT, subnet) / whole,
            "memory_bytes": int(memory(PARENT, subnet, MemorySpec())), "loss": loss, "perplexity": math.exp(loss),
            "accuracy": correct / 96,
            "answers": {"correct": correct, "total": 96, "accuracy": correct / 96, "by_task": {
                task: {"correct": n, "total": 48} for task, n in by_task.items()
            }},
            "untrained_loss": untrained, "unsorted_loss": unsorted,
            "recovered": None if untrained is None else closed(untrained, loss, BEFORE), "hidden": subnet.hidden,
            "layers": len(subnet.layers), "pattern": subnet.pattern,
        })  # fmt: skip
    write_json(root / "metrics.json", {
        "version": 1,
        "seconds": {"data": 21.0, "parent": 98.2, "stage 1": 61.4, "stage 2": 35.0, "total": TOTAL},
        "bigram_loss": BIGRAM, "parent_loss": {"start": 6.93, "end": 3.12, "evaluation": BEFORE}, "members": members,
        "targets": {"0.8m gains by sorting": {"found": 1.63, "unit": "nats", "at_least": 0.005, "met": True}},
    })  # fmt: skip
    return root
