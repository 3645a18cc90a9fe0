# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The engine itself, without a server: whose turn its steps are, and by what its cache distinguishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.core.family import Parent
from nemo_elastic.runtime import load_family

from .expected import LARGE, SMALL, Expected
from .families import EXPERTS, LATENT, SHAPES, write_experts
from .server import NEW, inside

pytestmark = [pytest.mark.vllm, pytest.mark.long]


def longest_wait(steps: list[dict[str, Any]]) -> int:
    """The most steps of others that a member with a running request waited for; -1 where one was served twice."""
    waits: dict[str, list[str]] = {m: [] for m in SHAPES}
    most = 0
    for step in steps:
        for member, others in waits.items():
            if member not in step["running"] or member == step["served"]:
                others.clear()
            elif step["tokens"]:
                others.append(step["served"])
                if len(set(others)) < len(others):
                    return -1
            most = max(most, len(others))
    return most


def test_the_engine(expected: Expected, tmp_path: Any) -> None:
    jobs, wanted = [], []
    for i, ids in enumerate(expected.ids):
        for member in SHAPES:
            jobs.append(({"member": member}, ids))
            wanted.append(expected.tokens[member][i])
        jobs.append(({"member": SMALL, "then": LARGE, "thinking_token_budget": 3 + i}, ids))
        wanted.append(expected.pair(i, None, 3 + i))
        jobs.append(({"member": "auto", "cost": 0.5}, ids))
        wanted.append(expected.auto(0.5)[1][i])
    report, said = inside("watch", expected.folder, tmp_path, jobs=jobs, new=NEW)
    assert report is not None, said[-3000:]
    assert report["tokens"] == wanted
    assert report["refused"] == "error" and report["again"] == wanted[:3]
    steps = report["steps"]
    assert 0 <= longest_wait(steps) < len(SHAPES)
    assert sum(not step["tokens"] for step in steps) < len(steps) / 4, "few do nothing"
    assert sum(step["parts"] for step in steps) > 0, "prompts of auto whose last tokens came in several steps"
    assert all(report["salts"].values()), report["salts"]
    assert report["left"] == 0 == report["pages"], "when all is done the scheduler keeps nothing"


@pytest.mark.parametrize("parent", [EXPERTS, LATENT], ids=["experts", "latent experts"])
def test_members_with_experts(parent: Parent, tmp_path: Path) -> None:
    """On one copy of the experts, by the runtime's loop, as vLLM has no kernel for them on a CPU."""
    folder = write_experts(tmp_path, parent)
    family, prompts = load_family(folder), [list(range(2, 2 + n)) for n in (3, 40, 150)]
    jobs = [({"member": name}, ids) for ids in prompts for name in family.names]
    report, said = inside("watch", folder, tmp_path, jobs=jobs, new=NEW)
    assert report is not None, said[-3000:]
    wanted = [family.select(name).generate([ids], NEW, ())[0] for ids in prompts for name in family.names]
    assert report["tokens"] == wanted and len({tuple(x) for x in wanted}) == len(wanted)
