# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How importance is measured: what may be said, and that it comes back from JSON as it was."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.fields import read
from nemo_elastic.ranking.ranking import RankOptions


def test_options_come_back_from_json_as_they_were() -> None:
    options = RankOptions("first", "mean", "cosine", depth_samples=3, depth_exact=5, head_channels=7)
    assert read(RankOptions, json.loads(json.dumps(options.to_json())), "options") == options != RankOptions()
    assert read(RankOptions, {}, "options") == RankOptions()


def test_whole_numbers_of_numpy_can_be_written() -> None:
    options = RankOptions(depth_samples=np.int64(3), head_channels=np.int32(2))  # pyright: ignore[reportArgumentType]
    assert json.loads(json.dumps(options.to_json())) == RankOptions(depth_samples=3, head_channels=2).to_json()


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("ffn", "last", "one of activation, first"),
        ("aggregation", "max", "one of l2_mean, mean"),
        ("depth", "random", "one of mse, cosine"),
        ("depth_samples", 0, "at least 1"),
        ("depth_samples", None, "at least 1"),
        ("depth_exact", 0, "at least 1, or null for all"),
        ("head_channels", 1.5, "at least 1, or null for all"),
        ("head_channels", True, "at least 1, or null for all"),
    ],
)
def test_a_wrong_value_is_reported_with_its_field(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ElasticError, match=rf"^rank\.{field}: .* is not allowed; {allowed}$"):
        RankOptions(**{field: value})


def test_an_unknown_field_is_reported_with_where_it_stands() -> None:
    with pytest.raises(ElasticError, match=r"^ranking\.options.*samples"):
        read(RankOptions, {"samples": 3}, "ranking.options")
