# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A job of a study, and what it takes from those before it: results, the parent's checkpoint, shapes, a ranking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.study.train import BATCH, LR, Batch

#: kinds that start from nothing, and those that run in Megatron-Bridge's environment (`experts.KINDS`)
PARENTS = ("parent", "experts_parent")
ON_BRIDGE = ("experts_parent", "experts_ranked", "experts", "experts_scratch")


@dataclass(frozen=True)
class Job:
    """What to train.

    Attributes:
        name: of the job and of its folder.
        kind: one of `jobs.KINDS`.
        seed: of data order, ranking, search and sampling.
        steps: optimizer steps (stage 1's, where there are two).
        block: elastic block of a family; of ModelOpt's search, that of the family whose loss and tokens it goes by.
        after: job whose shapes (and ranking) are taken; of a parent the job whose weights it starts from.
        member: which of its members is trained alone.
        ratio: share of the parent's parameters that ModelOpt prunes to.
        batch: sequences and length.
        lr: peak learning rate.
        late: steps and batch of stage 2.
        ask: also evaluate answers to the questions of held-out documents.
        parent: job that trained the parent; None where nothing is trained.
        data: folder of tokens, below the runs.
        split: of the data.
        model: which parent, of `model.MODELS`.
        balance: which micro-batches move the bias of experts, of `balance.SPECS`.
    """

    name: str
    kind: str
    seed: int = 0
    steps: int = 0
    block: Mapping[str, Any] = field(default_factory=dict)
    after: str | None = None
    member: str | None = None
    ratio: float | None = None
    batch: Batch = BATCH
    lr: float = LR
    late: tuple[int, Batch] | None = None
    ask: bool = False
    parent: str | None = "parent"
    data: str = "data"
    split: str = "train"
    model: str = "study"
    balance: str = "whole"

    @property
    def before(self) -> list[str]:
        """Jobs whose results it starts from."""
        return [name for name in (self.after, None if self.kind in PARENTS else self.parent) if name]


def read_result(runs: Path, name: str) -> dict[str, Any]:
    """Result of a finished job."""
    return json.loads((runs / name / "result.json").read_text())


def parent_checkpoint(job: Job, runs: Path) -> Path:
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    assert job.parent is not None
    return last_checkpoint(runs / job.parent / "run")


def fixed_shapes(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """Block settings that take another job's ranking and members, and sample only the member that is trained alone."""
    if job.after is None:
        return {}
    before = read_result(runs, job.after)
    budgets = [b for b in job.block["budgets"] if b["name"] in ("full", job.member)] if job.member else None
    names = [b["name"] for b in budgets or job.block["budgets"]]
    path = out / "shapes.json"
    path.write_text(json.dumps({"members": {n: before["shapes"][n] for n in names}}))
    fixed: dict[str, Any] = {"shapes": str(path), "ranking": before["ranking"]}
    if job.member:
        fixed |= {"budgets": budgets, "sampling": {"full": 0, job.member: 1}}
    return fixed
