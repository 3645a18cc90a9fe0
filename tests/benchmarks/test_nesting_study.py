# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The study of nesting: what each way does to a step, and its table."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from benchmarks.study import nesting
from benchmarks.study.grounds import PROBLEM_AXES, Ground, fresh
from benchmarks.study.nesting import ALONE, TRIED, UNTRAINED, Result, Study
from benchmarks.study.nesting_ways import BUDGETS, SIZES, WAYS, Family, Run, Way
from benchmarks.study.problems import LR, batches, problems
from benchmarks.study.results import REPORTED, TUNED

RATES = {"large": 1e-4, "medium": 2e-4, "small": 4e-4}


@pytest.fixture(scope="module")
def family() -> Family:
    return Family(Ground(fresh(0), PROBLEM_AXES, batches, LR, "answers"), 0)


def stepped(family: Family, way: Way, sizes: list[str], lr: float = 1e-4) -> Run:
    run = Run(family, way, lr, RATES)
    run._step(next(run._rows()), sizes, 1.0)
    return run


def moved(family: Family, run: Run) -> dict[str, torch.Tensor]:
    return {name: (p - family.start[name]).abs() for name, p in run.model.named_parameters()}


def test_shapes_are_nested_and_every_way_spends_what_it_may(family: Family) -> None:
    assert list(family.members) == list(BUDGETS)
    assert family.cost("full") > family.cost("large") > family.cost("medium") > family.cost("small")
    most = 6 * 1024 * family.cost("full")
    for name, way in WAYS.items():
        run = Run(family, way, 1e-4, RATES)
        run.train(most)
        last = run.spent / run.steps
        assert most <= run.spent < most + 4 * last, name
        assert all(torch.isfinite(torch.tensor(list(run.apart(REPORTED).values()))))
    run = Run(family, replace(Way(), tokens=1.0), 1e-4)
    run.train(most, 2 * run._rows().__next__().tokens_bs.numel())
    assert run.steps == 2


def test_a_step_at_the_rate_of_its_size(family: Family) -> None:
    small, one = (stepped(family, Way(rates=rates), ["small"]) for rates in ("size", "one"))
    name = "backbone.embeddings.weight"
    torch.testing.assert_close(moved(family, small)[name], 4 * moved(family, one)[name], rtol=1e-3, atol=5e-6)


@pytest.mark.parametrize(("rates", "times"), [("blocks", {1.0, 2.0, 4.0}), ("outer", {0.5, 1.0, 2.0})])
def test_each_weight_has_a_rate_by_the_smallest_size_that_has_it(
    family: Family, rates: str, times: set[float]
) -> None:
    ours, one = (stepped(family, Way(rates=each), ["large"]) for each in (rates, "one"))
    ratios = set()
    for name, way in moved(family, ours).items():
        plain = moved(family, one)[name]
        ratios |= set((way / plain)[plain > 5e-5].round(decimals=1).tolist())
    assert ratios == times


def test_losses_over_their_running_means(family: Family) -> None:
    run = Run(family, Way(level=True), 1e-4)
    assert run._usual("small", 4.0) == 1.0 and run._usual("large", 1.0) == pytest.approx(1 / 2.5)
    assert run._usual("large", 1.0) == pytest.approx(1 / 2.5) and run._usual("small", 9.0) == pytest.approx(5 / 3)


def test_a_step_of_all_sizes_reads_the_teacher_once(family: Family) -> None:
    run = stepped(family, Way(together=True), list(SIZES))
    each = sum(3 * family.cost(size) for size in SIZES)
    assert run.spent == pytest.approx(run.tokens * (each + family.cost("full")))
    apart = [stepped(family, Way(), [size]) for size in SIZES]
    assert sum(r.spent for r in apart) - run.spent == pytest.approx(2 * run.tokens * family.cost("full"))


def test_the_next_larger_size_teaches(family: Family) -> None:
    taught, plain = (stepped(family, Way(mentor=mentor), ["small"]) for mentor in (0.5, 0.0))
    assert taught.spent - plain.spent == pytest.approx(plain.tokens * family.cost("medium"))
    assert any(not torch.equal(a, b) for a, b in zip(moved(family, taught).values(), moved(family, plain).values()))
    largest = stepped(family, Way(mentor=0.5), ["large"])
    assert largest.spent == stepped(family, Way(), ["large"]).spent


def test_norms_of_its_own(family: Family) -> None:
    run = stepped(family, Way(norms=True, norm_rate=20.0), ["small"])
    names = list(run.own["small"])
    assert names and all("norm" in name for name in names)
    assert all(torch.equal(run.model.get_parameter(name), family.start[name]) for name in names)
    most = max(float((p - family.start[name]).abs().max()) for name, p in run.own["small"].items())
    assert most == pytest.approx(20e-4, rel=1e-2)
    shared = moved(family, stepped(family, Way(norm_rate=20.0), ["small"]))
    assert max(float(shared[name].max()) for name in names) == pytest.approx(20e-4, rel=1e-2)
    assert max(float(m.max()) for name, m in shared.items() if name not in names) < 2e-4


@pytest.mark.parametrize(("course", "first"), [("up", "small"), ("down", "large")])
def test_sizes_change_over_a_run(family: Family, course: str, first: str) -> None:
    run = Run(family, Way(sizes=course, whole=0.0), 1e-4)
    begin, end = ([run._sizes(done)[0] for _ in range(300)].count(first) for done in (0.0, 1.0))
    assert begin > 120 and end < 80


def test_a_study_goes_on(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(family.ground, tmp_path / "kept", 1)
    study.families[0] = family
    first = study.run(ALONE, "small", 0, 1e-4)
    again = Study(family.ground, tmp_path / "kept", 1)
    assert study.run(UNTRAINED, "", 0, 0.0).apart["full"] == pytest.approx(0.0, abs=1e-6)
    monkeypatch.setattr(nesting, "Run", None)
    assert again.run(ALONE, "small", 0, 1e-4) == first and first.steps == 1


def test_rates_are_chosen_on_problems_that_are_not_reported(tmp_path: Path) -> None:
    texts = {part: {p.text for p in islice(problems(0, part), 200)} for part in (TUNED, REPORTED, False)}
    assert not texts[TUNED] & texts[REPORTED] and not texts[False] & (texts[TUNED] | texts[REPORTED])
    assert texts[TUNED] | texts[REPORTED] >= {p.text for p in islice(problems(0, True), 200)}
    study = Study(Ground(fresh(0), PROBLEM_AXES, batches, LR, "answers"), tmp_path / "kept", 1)
    by_lr = dict(zip(TRIED["small"], (1.0, 0.1, 2.0, 3.0), strict=True))  # the best by what is reported is the first
    study.kept.results = [
        Result(ALONE, size, 0, lr, 1, 1, 1.0, {size: lr}, {size: by_lr.get(lr, 4.0)})
        for size in SIZES
        for lr in TRIED[size]
    ]
    assert study.best_alone(0)["small"] == TRIED["small"][1]
