# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The study of distilling in low precision: all ways start from one family, and its tables."""

from __future__ import annotations

from pathlib import Path

from benchmarks.study.grounds import PROBLEM_AXES, Ground, fresh
from benchmarks.study.problems import LR, PARENT, batches
from benchmarks.study.quantize import BUDGETS, Result, made, megabytes, verdict
from nemo_elastic.core.precision import SCHEMES

GROUND = Ground(fresh(0), PROBLEM_AXES, batches, LR, "answers")


def test_ways_go_on_from_one_family_and_rounding_costs(tmp_path: Path) -> None:
    results = made(GROUND, 0, 1, 1, tmp_path)
    assert [(r.scheme, r.member) for r in results] == [(s, m) for s in SCHEMES for m in BUDGETS]
    by = {(r.scheme, r.member): r for r in results}
    for member in BUDGETS:
        nvfp4, fp8 = (by[scheme, member] for scheme in ("nvfp4", "fp8"))
        assert (nvfp4.full, nvfp4.control_full) == (fp8.full, fp8.control_full)
        assert nvfp4.family != nvfp4.full and nvfp4.control != nvfp4.control_full
        assert nvfp4.distilled not in (nvfp4.control, fp8.distilled)


def test_a_family_is_smaller_than_its_members_apart() -> None:
    small = PARENT.uniform(hidden=48)
    sizes = [megabytes(PARENT, small, scheme) for scheme in ("nvfp4", "fp8", None)]
    assert sorted({*sizes, megabytes(PARENT, PARENT.full, None)}) == [*sizes, megabytes(PARENT, PARENT.full, None)]


def test_members_of_a_seed_are_one_value() -> None:
    """Three members that agree within each of three seeds: as much is known as of three values, not of nine."""
    won = {0: 0.10, 1: 0.02, 2: 0.06}
    results = [
        Result("fp8", member, seed, 10, 0.1, 0.3, 0.1, 0.2, 0.2 - won[seed]) for seed in won for member in BUDGETS
    ]
    # mean 0.06, standard error 0.04 / sqrt(3), Student's 4.3027 of two degrees of freedom; the cost is 0.1
    assert verdict(results) == "rounding costs 0.1000 nats; distilling wins back 60% (95% over seeds: -39% to 159%)"
    assert verdict(results[:3]) == "rounding costs 0.1000 nats"
