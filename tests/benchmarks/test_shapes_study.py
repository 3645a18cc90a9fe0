# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The study of shapes: what chooses the rate is not reported, and tables count what ran."""

from __future__ import annotations

import pytest
import torch

from benchmarks.study.grounds import LARGE
from benchmarks.study.shapes import (
    ALONE,
    AXES,
    HALVING,
    LENGTH,
    REPORTED,
    SEARCH,
    TUNED,
    Result,
    Runs,
    held_out,
    ways_table,
)
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.plan import preset


def result(way: str, seed: int, loss: float, tuned: float | None = None, lr: float = 1e-3, steps: int = 480) -> Result:
    return Result("demo", seed, "50", way, steps, lr, loss if tuned is None else tuned, loss, (96, 9, 0.5))


@pytest.mark.parametrize(("ground", "parent"), [("demo", preset("nemotron-h-tiny")), ("5m", LARGE)])
def test_axes_start_at_their_parent(ground: str, parent: Parent) -> None:
    block = {"budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}], "axes": AXES[ground], "shapes": "even"}
    axes = ElasticConfig.from_dict(block).resolve_axes(parent)
    assert {"hidden", "ffn", "mamba_heads", "depth"} <= {name for name, axis in axes.items() if len(axis.choices) > 1}


def test_the_text_that_chooses_the_rate_is_not_reported() -> None:
    rows = torch.arange(LENGTH * 1000).view(-1, LENGTH)
    tuned, reported = held_out(rows.flatten())
    assert (len(tuned), len(reported)) == (TUNED, REPORTED)
    assert not set(tuned[:, 0].tolist()) & set(reported[:, 0].tolist())


def test_the_oracle_is_chosen_on_other_text_and_ways_compare_by_seed() -> None:
    runs = Runs([
        result(SEARCH, 0, 0.04), result(HALVING, 0, 0.02), result(f"{ALONE}96 x 9", 0, 0.018, tuned=0.01),
        result(f"{ALONE}96 x 8", 0, 0.016, tuned=0.03), result(SEARCH, 0, 0.01, lr=2e-3), result(SEARCH, 1, 0.03),
    ])  # fmt: skip
    assert runs.oracle("50", 480)[0].way == f"{ALONE}96 x 9"
    (line,) = ways_table(runs).splitlines()[2:]
    cells = [cell.strip() for cell in line.split("|")]
    assert "0.0350 (2)" in cells and "0.0200 (1)" in cells and "1.11" in cells and "0.50" in cells
