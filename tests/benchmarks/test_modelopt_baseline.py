# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The baselines of the studies: widths that ModelOpt cuts to."""

from __future__ import annotations

import math

import pytest

from benchmarks.study import modelopt_targets as mt
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import ElasticError

STUDY = Parent("M-M*-M-M*-", 256, 1024, 1280, 16, 32, 4, 16, 4, 8, 2, 32)


@pytest.mark.parametrize("ratio", [0.72, 0.5])
@pytest.mark.parametrize("pattern", [None, "M-M-M-M*-"])
def test_targets_come_within_two_percent_and_modelopt_takes_them(ratio: float, pattern: str | None) -> None:
    shape = mt.targets(STUDY, ratio, pattern)
    assert abs(parameters(shape, shape.full) / (ratio * parameters(STUDY, STUDY.full)) - 1) <= 0.02
    assert shape.hidden % mt.DIVISORS["hidden_size_divisor"] == 0
    assert shape.ffn % mt.DIVISORS["ffn_hidden_size_divisor"] == 0
    assert shape.mamba_heads % STUDY.mamba_groups == 0
    layers = {} if pattern is None else {"num_layers": 9}
    assert mt.pruning(shape, STUDY).items() >= layers.items()
    # hidden and FFN shrink by about one power of the published shares
    cut = mt.nearest(ratio)
    powers = [math.log(shape.hidden / 256) / math.log(cut.hidden), math.log(shape.ffn / 1280) / math.log(cut.ffn)]
    assert max(powers) < 2 * min(powers)


def test_proportions_are_nvidias() -> None:
    nine, four = mt.cuts()
    assert (nine.hidden, nine.ffn, nine.inner, nine.depth) == pytest.approx((0.875, 0.7656, 1.0, 56 / 62), abs=1e-4)
    assert (four.hidden, four.ffn, four.inner, four.depth) == pytest.approx((0.75, 0.5714, 0.875, 1.0), abs=1e-4)
    assert [mt.depth(STUDY, r) for r in (0.85, 0.72, 0.6, 0.5)] == [10, 9, 10, 10]


def test_a_ratio_that_no_width_reaches_is_refused() -> None:
    with pytest.raises(ElasticError, match="ratio"):
        mt.targets(STUDY, 0.0001)
