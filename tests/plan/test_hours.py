# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How long a training takes: steps times seconds, on all GPUs of a layout."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.plan import RunShape, duration, layouts, preset

PARENT = preset("nemotron-h-tiny")
CONFIG = ElasticConfig.from_dict({"budgets": [{"name": "small", "ratio": 0.7}], "axes": {"depth": [12, 6]}})
LAYOUT = replace(
    layouts(PARENT, CONFIG, RunShape(64, 8, gpus=1))[0],
    tensor=2, pipeline=3, data=4, seconds=1.8,
)  # fmt: skip


def test_hours_are_those_of_the_clock_and_of_every_gpu() -> None:
    found = duration(LAYOUT, steps=4000)
    assert (found.steps, found.hours, found.gpu_hours) == (4000, pytest.approx(2.0), pytest.approx(48.0))


def test_it_is_told_in_a_line() -> None:
    assert str(duration(LAYOUT, 4000)) == "4,000 steps in about 2 hours, 48 GPU-hours"
    assert str(duration(replace(LAYOUT, seconds=7.2), 617)) == "617 steps in about 1.23 hours, 30 GPU-hours"
