# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A rehearsal runs what the recipe configures: what differs is what a `replace` says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.plan import PAPER
from nemo_elastic.rehearsal.report import Change, changes
from recipes import families

pytestmark = pytest.mark.nemo


@pytest.fixture(scope="module")
def rehearsal() -> Any:
    """What no test changes; it takes seconds to make."""
    from nemo_elastic.rehearsal.run import rehearsal_of

    return rehearsal_of(families.family("nemotron_elastic_12b"), "/rehearsal")


@pytest.fixture(scope="module")
def real(rehearsal: Any) -> dict[str, Any]:
    from nemo_elastic.rehearsal.run import THERE

    return {name: job.task for name, job in rehearsal.family.described(rehearsal.family.run_of(*THERE)).items()}


def tasks(rehearsal: Any) -> dict[str, Any]:
    return {name: job.task for name, job in rehearsal.jobs.items()}


def test_every_setting_that_differs_has_its_reason(rehearsal: Any, real: dict[str, Any]) -> None:
    from nemo_elastic.hosts.common.changes import settings
    from tests.rehearsal.test_rehearse import WHYS

    changed = rehearsal.changed
    assert {change.why for change in changed} == WHYS
    small = tasks(rehearsal)
    differing = [
        f"{job}: {name}"
        for job in real
        for before, after in [(settings(real[job]), settings(small[job]))]
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    assert [change.name for change in changed] == differing


def test_the_last_replacement_of_a_setting_is_its_reason() -> None:
    recipe = {"stage1": {"a": 1, "b": 1, "c": 1}}
    replaced = {
        "first": {"stage1": {"a": 2, "b": 2, "c": 1}},
        "second": {"stage1": {"a": 3, "b": 1, "d": 4}},
    }
    assert changes(recipe, replaced) == [
        Change("stage1: a", 1, 3, "second"),
        Change("stage1: c", 1, None, "second"),
        Change("stage1: d", None, 4, "second"),
    ]


def test_a_setting_that_the_recipe_gained_is_the_rehearsals_too(tmp_path: Path) -> None:
    from nemo_elastic.rehearsal.run import rehearsal_of

    family = families.family("nemotron_elastic_12b")

    def stock(**how: Any) -> Any:
        recipe = family.stock(**how)
        recipe.trainer.gradient_clip_val = 0.3
        return recipe

    jobs = tasks(rehearsal_of(replace(family, stock=stock), str(tmp_path)))
    assert {jobs[name].trainer.gradient_clip_val for name in ("parent", "rank", "stage1", "stage2")} == {0.3}


def test_layouts_are_divided_alike() -> None:
    from nemo_elastic.rehearsal.short import scaled_layouts

    first = families.family("nemotron_elastic_9b").layout(1, PAPER, 128, "h100")

    def over(ranks: int, *sizes: tuple[int, int] | tuple[int, int, int]) -> list[str]:
        own = {"sequence_parallel": True, "recompute": False}
        layouts = [
            replace(first, tensor=t, pipeline=p, context=math.prod(c), data=128 // (t * p * math.prod(c)), **own)
            for t, p, *c in sizes
        ]
        return [str(layout) for layout in scaled_layouts(layouts, ranks)]

    assert over(4, (4, 1), (2, 1)) == ["TP4 PP1 DP1 SP", "TP2 PP1 DP2 SP"]
    assert over(4, (4, 1), (4, 1)) == ["TP2 PP1 DP2 SP", "TP2 PP1 DP2 SP"]
    assert over(4, (4, 2), (2, 2)) == ["TP2 PP2 DP1 SP", "TP1 PP2 DP2"]
    assert over(1, (4, 1), (2, 1)) == ["TP1 PP1 DP1", "TP1 PP1 DP1"]
    assert over(4, (1, 1, 4), (2, 1, 4)) == ["TP1 CP2 PP1 DP2", "TP1 CP4 PP1 DP1"]


def test_experts_are_shared_over_as_many_ranks_as_are_left() -> None:
    from nemo_elastic.rehearsal.short import scaled_layouts

    first = families.family("nemotron_elastic_9b").layout(1, PAPER, 128, "h100")
    shared = replace(first, tensor=2, context=1, sequence_parallel=True, recompute=False, expert=8)
    whole = [replace(shared, pipeline=2, data=32), replace(shared, pipeline=1, data=64)]
    wanted = {
        1: ["TP1 PP1 DP1 EP1", "TP1 PP1 DP1 EP1"],
        4: ["TP2 PP2 DP1 EP2 SP", "TP2 PP1 DP2 EP4 SP"],
    }
    assert {ranks: [str(layout) for layout in scaled_layouts(whole, ranks)] for ranks in wanted} == wanted


def test_ranks_that_no_layout_takes_are_refused() -> None:
    from nemo_elastic.rehearsal.short import Short

    with pytest.raises(ElasticError, match=r"^ranks: 6 "):
        Short(ranks=6)
