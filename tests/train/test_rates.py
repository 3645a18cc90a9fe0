# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Learning rates over both stages."""

from __future__ import annotations

import pytest

from nemo_elastic.train.training import Rates


def test_the_schedule_joins_the_stages_and_stops_the_router() -> None:
    whole = Rates(total_steps=100, warmup_steps=10, freeze_step=40)
    second = Rates(total_steps=100, warmup_steps=10, start_step=60, freeze_step=40)
    assert [second.model(i) for i in range(40)] == [whole.model(60 + i) for i in range(40)]
    assert whole.model(0) == pytest.approx(0.1)
    assert whole.model(9) == pytest.approx(1.0)
    assert whole.model(100) == pytest.approx(0.1)
    assert whole.router(39) == 1.0
    assert whole.router(40) == second.router(0) == 0.0
