# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Learning rates over both stages."""

from __future__ import annotations

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.train.training import Rates


def test_the_schedule_joins_the_stages_and_stops_the_router() -> None:
    whole = Rates(total_steps=100, warmup_steps=10, freeze_step=40)
    second = Rates(total_steps=100, warmup_steps=10).after(60, 40)
    assert [second.model(i) for i in range(40)] == [whole.model(60 + i) for i in range(40)]
    assert whole.model(0) == pytest.approx(0.1)
    assert whole.model(9) == pytest.approx(1.0)
    assert whole.model(100) == pytest.approx(0.1)
    assert whole.router(39) == 1.0
    assert whole.router(40) == second.router(0) == 0.0


def test_a_peak_has_a_lowest_rate_of_its_own() -> None:
    rates = Rates(total_steps=100, warmup_steps=10)
    assert [rates.model(step, 3e-3, 1e-3) for step in (4, 9, 100)] == pytest.approx([1.5e-3, 3e-3, 1e-3])
    assert rates.model(55, 3e-3, 1e-3) == pytest.approx(2e-3), "half-way between them"


def test_a_stage_ends_the_schedule_where_no_total_was_given() -> None:
    assert Rates(total_steps=20).after(40, 20) == Rates(total_steps=60, start_step=40)
    assert Rates(total_steps=70).after(40, 20).total_steps == 70
    with pytest.raises(ElasticError, match=r"^total_steps: 50 is not allowed; at least 40 .* 20 "):
        Rates(total_steps=50).after(40, 20)
