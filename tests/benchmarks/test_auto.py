# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The study of members that are chosen by themselves, on made signals."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.study.auto import AT, COSTS, halved, judged
from benchmarks.study.auto_table import curve, worth
from nemo_elastic.evaluation.known_answers import Measured
from nemo_elastic.serving.calibration import SIGNALS
from tests.serving.calibrated import NAMES, PARAMETERS, made


def test_halves_share_no_document():
    groups = np.repeat(np.arange(9), 5)
    first, second = halved(groups, 0)
    assert sorted([*first, *second]) == list(range(45))
    assert not set(groups[first]) & set(groups[second]) and len(first) in (20, 25)
    assert not np.array_equal(first, halved(groups, 3)[0])


def test_what_is_reported_of_a_choice():
    signals_ns, quality_nm = made(600)
    actual = judged(Measured(NAMES, PARAMETERS, signals_ns, quality_nm), np.arange(600), 0)
    assert actual["sizes"] == [0.5, 0.75, 1.0] and set(actual["auto"]) == {f"{cost:g}" for cost in COSTS}
    assert actual["explained"] > 0.9 and actual["prompts"] == 600
    at = actual["auto"][f"{AT:g}"]
    assert at["size"] == pytest.approx(0.5 + 0.5 * at["cost"])
    assert 0.5 < at["read"] < 0.5 + at["size"]  # those that stay are read once
    assert at["gain"] > 10 * at["wide"] and actual["perfect"]["gain"] >= at["gain"]
    assert max(actual["single"], key=lambda name: actual["single"][name]["gain"]) == SIGNALS[0]
    table = curve([actual, actual], "answers")
    assert table.count("\n") == 2 + len(NAMES) + len(COSTS) and "| always 12b | 100 |" in table
    assert "perfect foresight" in worth({"answers": [actual], "text": [actual]})
    assert "No runs yet" in curve([], "text")
