# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A rehearsal runs what the recipe configures: only declared settings differ."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.errors import ElasticError

pytestmark = pytest.mark.nemo
RECIPES = ("nemotron_elastic_12b", "nemotron_elastic_9b", "nemotron_elastic_8b")


@pytest.fixture(params=RECIPES)
def family(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param).FAMILY


@pytest.fixture
def rehearsal(family: Any, tmp_path: Path) -> Any:
    from nemo_elastic.rehearsal.run import rehearsal_of

    return rehearsal_of(family, str(tmp_path))


def own(family: Any) -> dict[str, Any]:
    return family.jobs("/checkpoints/parent", ["/data/text"], "/runs/family")


def tasks(rehearsal: Any) -> dict[str, Any]:
    return {name: job.task for name, job in rehearsal.built.jobs.items()}


def test_only_declared_settings_differ(rehearsal: Any) -> None:
    from nemo_elastic.rehearsal.nemo.declared import DECLARED
    from nemo_elastic.rehearsal.nemo.jobs import compared

    found = compared(own(rehearsal.family), tasks(rehearsal))
    assert found == rehearsal.built.changed
    assert {change.why for change in found} <= set(DECLARED)
    assert all(change.before != change.after for change in found)


def test_what_a_recipe_is_bought_for_is_the_same(rehearsal: Any) -> None:
    """By hand, as the comparison could be wrong: what differed between recipes and tests when the router was dead."""
    for name, job in own(rehearsal.family).items():
        small = tasks(rehearsal)[name]
        if not name.startswith("stage"):
            continue
        before, after = job.optim.config, small.optim.config
        for field in ("optimizer", "lr", "adam_eps", "adam_beta1", "adam_beta2", "clip_grad", "weight_decay", "bf16",
                      "use_distributed_optimizer"):  # fmt: skip
            assert getattr(after, field) == getattr(before, field), field
        assert small.optim.lr_mult == job.optim.lr_mult
        assert small.optim.lr_scheduler.min_ratio == job.optim.lr_scheduler.min_ratio
        assert small.trainer.plugins[0].precision == job.trainer.plugins[0].precision == "bf16-mixed"
        assert small.trainer.strategy.ckpt_optim_fully_reshardable is True
        for section in ("router", "distill", "sampling", "nonfinite", "seed", "budgets_per_batch"):
            assert small.model.elastic[section] == job.model.elastic[section]
        callbacks = [c.__fn_or_cls__ for c in job.trainer.callbacks]
        assert [c.__fn_or_cls__ for c in small.trainer.callbacks][: len(callbacks)] == callbacks


def test_the_schedule_keeps_its_proportions(rehearsal: Any) -> None:
    jobs, real = tasks(rehearsal), own(rehearsal.family)
    for name in ("stage1", "stage2"):
        small, large = jobs[name].optim.lr_scheduler, real[name].optim.lr_scheduler
        for field in ("start_step", "freeze_step"):
            share = getattr(large, field) / large.total_steps
            assert getattr(small, field) / small.total_steps == pytest.approx(share, abs=0.05)
        assert jobs[name].data.seq_length / jobs["stage1"].data.seq_length == (
            real[name].data.seq_length / real["stage1"].data.seq_length
        )


def test_a_change_of_layout_stays_one(rehearsal: Any) -> None:
    def sizes(jobs: dict[str, Any]) -> list[int]:
        return [jobs[f"stage{n}"].trainer.strategy.tensor_model_parallel_size for n in (1, 2)]

    large, small = sizes(own(rehearsal.family)), sizes(tasks(rehearsal))
    assert large[0] * small[1] == large[1] * small[0]
    assert max(small) <= 4


def test_a_setting_that_the_rehearsal_lost_is_named(rehearsal: Any) -> None:
    from nemo_elastic.rehearsal.nemo.jobs import compared

    jobs = {name: job.clone() for name, job in tasks(rehearsal).items()}
    jobs["stage2"].optim.config.adam_eps = 1e-8
    with pytest.raises(ElasticError, match=r"stage2: optim\.config\.adam_eps is 1e-08, in the recipe 1e-05"):
        compared(own(rehearsal.family), jobs)
    del jobs["slice"]
    with pytest.raises(ElasticError, match="the recipe's job slice is not in it"):
        compared(own(rehearsal.family), jobs)


def test_a_setting_that_the_recipe_gained_is_named(rehearsal: Any) -> None:
    from nemo_elastic.rehearsal.nemo.jobs import compared

    real = own(rehearsal.family)
    real["stage1"].trainer.gradient_clip_val = 0.3
    with pytest.raises(ElasticError, match=r"stage1: trainer\.gradient_clip_val is None, in the recipe 0\.3"):
        compared(real, tasks(rehearsal))


def test_layouts_are_divided_alike() -> None:
    from nemo_elastic.rehearsal.short import halved

    family = importlib.import_module("nemotron_elastic_9b").FAMILY
    from nemo_elastic.hosts.nemo.curriculum.jobs import PAPER

    first = family.layout(1, PAPER, 128, "h100")

    def over(ranks: int, *sizes: tuple[int, int]) -> list[str]:
        layouts = [replace(first, tensor=t, pipeline=p, data=128 // (t * p), sequence_parallel=True, recompute=False)
                   for t, p in sizes]  # fmt: skip
        return [str(layout) for layout in halved(layouts, ranks)]

    assert over(4, (4, 1), (2, 1)) == ["TP4 PP1 DP1 SP", "TP2 PP1 DP2 SP"]
    assert over(4, (4, 1), (4, 1)) == ["TP2 PP1 DP2 SP", "TP2 PP1 DP2 SP"]
    assert over(8, (4, 1), (2, 1)) == ["TP4 PP1 DP2 SP", "TP2 PP1 DP4 SP"]
    assert over(2, (4, 1), (2, 1)) == ["TP2 PP1 DP1 SP", "TP1 PP1 DP2"]
    assert over(4, (4, 2), (2, 2)) == ["TP2 PP2 DP1 SP", "TP1 PP2 DP2"]
    assert over(1, (4, 1), (2, 1)) == ["TP1 PP1 DP1", "TP1 PP1 DP1"]


def test_experts_are_shared_over_as_many_ranks_as_are_left() -> None:
    from nemo_elastic.hosts.nemo.curriculum.jobs import PAPER
    from nemo_elastic.rehearsal.short import halved

    first = importlib.import_module("nemotron_elastic_9b").FAMILY.layout(1, PAPER, 128, "h100")
    shared = replace(first, tensor=2, sequence_parallel=True, recompute=False, expert=8)
    whole = [replace(shared, pipeline=2, data=32), replace(shared, pipeline=1, data=64)]
    wanted = {
        1: ["TP1 PP1 DP1 EP1", "TP1 PP1 DP1 EP1"],
        2: ["TP1 PP2 DP1 EP1", "TP1 PP1 DP2 EP2"],
        4: ["TP2 PP2 DP1 EP2 SP", "TP2 PP1 DP2 EP4 SP"],
        16: ["TP2 PP2 DP4 EP8 SP", "TP2 PP1 DP8 EP8 SP"],
    }
    assert {ranks: [str(layout) for layout in halved(whole, ranks)] for ranks in wanted} == wanted
