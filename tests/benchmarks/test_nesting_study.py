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
from benchmarks.study.nesting import (
    ALONE,
    BUDGETS,
    SIZES,
    TRIED,
    UNTRAINED,
    WAYS,
    Family,
    Result,
    Run,
    Study,
    Way,
)
from benchmarks.study.problems import LR, batches, problems
from benchmarks.study.results import REPORTED, TUNED


@pytest.fixture(scope="module")
def family() -> Family:
    return Family(Ground(fresh(0), PROBLEM_AXES, batches, LR, "answers"), 0)


def stepped(family: Family, way: Way, sizes: list[str]) -> Run:
    run = Run(family, way, 1e-4)
    run._step(next(run._rows()), sizes, 1e-4)
    return run


def test_shapes_are_nested_and_every_way_spends_what_it_may(family: Family) -> None:
    assert list(family.members) == list(BUDGETS)
    assert family.cost("full") > family.cost("large") > family.cost("medium") > family.cost("small")
    most = 6 * 1024 * family.cost("full")
    for name, way in WAYS.items():
        run = Run(family, way, 1e-4)
        run.train(most)
        last = run.spent / run.steps
        assert most <= run.spent < most + 4 * last, name
        assert all(torch.isfinite(torch.tensor(list(run.apart(REPORTED).values()))))
    run = Run(family, replace(Way(), tokens=1.0), 1e-4)
    run.train(most, 2 * run._rows().__next__().tokens_bs.numel())
    assert run.steps == 2


def test_a_step_of_all_sizes_reads_the_teacher_once(family: Family) -> None:
    run = stepped(family, Way(together=True), list(SIZES))
    each = sum(3 * family.cost(size) for size in SIZES)
    assert run.spent == pytest.approx(run.tokens * (each + family.cost("full")))
    apart = [stepped(family, Way(), [size]) for size in SIZES]
    assert sum(r.spent for r in apart) - run.spent == pytest.approx(2 * run.tokens * family.cost("full"))


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
