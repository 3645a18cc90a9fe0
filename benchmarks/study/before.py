# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a job of a study takes from those before it: results, the parent's checkpoint, shapes, a ranking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.study.jobs import Job


def read_result(runs: Path, name: str) -> dict[str, Any]:
    """Result of a finished job."""
    return json.loads((runs / name / "result.json").read_text())


def parent_checkpoint(job: Job, runs: Path) -> Path:
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    assert job.parent is not None
    return last_checkpoint(runs / job.parent / "run")


def fixed_shapes(job: Job, runs: Path, out: Path) -> dict[str, Any]:
    """Block settings that take another job's ranking and members, and draw only the member that is trained alone."""
    if job.after is None:
        return {}
    before = read_result(runs, job.after)
    shapes = random_shapes(job, before["ranking"]) if job.kind == "random" else before["shapes"]
    budgets = [b for b in job.block["budgets"] if b["name"] in ("full", job.member)] if job.member else None
    names = [b["name"] for b in budgets or job.block["budgets"]]
    path = out / "shapes.json"
    path.write_text(json.dumps({"members": {n: shapes[n] for n in names}}))
    fixed: dict[str, Any] = {"shapes": str(path), "ranking": before["ranking"], "search": None, "router": None}
    if job.member:
        fixed |= {"budgets": budgets, "sampling": {"full": 0, job.member: 1}}
    return fixed


def random_shapes(job: Job, ranking: str) -> dict[str, Any]:
    """Members by chance: every choice is drawn, then brought to its budget and into the member before it."""
    import numpy as np

    from benchmarks.study.evaluate import parent_shape
    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.ranking import Ranking
    from nemo_elastic.search import Space
    from nemo_elastic.search.projection import project_family

    shape, config = parent_shape(model=job.model), ElasticConfig.from_dict(dict(job.block))
    space = Space(shape, config.resolve_axes(shape), Ranking.load(ranking, shape).depth)
    rng = np.random.default_rng([job.seed, 0x5EED])
    raw = {
        budget.name: space.decode([int(rng.integers(len(slot.choices))) for slot in space.slots])
        for budget in config.budgets
        if not budget.is_parent
    }
    return {name: p.member.to_json() for name, p in project_family(space, raw, config.budgets).items()}
