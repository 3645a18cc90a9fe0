# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the demo runs, and what it says of its figures: targets, and the table at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.demo.demo_settings import FULL, PARENT, SHORT, STAGE1, STAGE2, Settings
from nemo_elastic.demo.walk import markdown, targets
from tests.report.fabricate import make_run


def losses(untrained: float, unsorted: float, loss: float = 3.13) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    parent = {"name": "parent", "loss": 3.1}
    whole = {"name": "big", "loss": 3.12, "untrained_loss": 3.1, "unsorted_loss": 3.1}
    small = {"name": "small", "loss": loss, "untrained_loss": untrained, "unsorted_loss": unsorted}
    return parent, [whole, small]


@pytest.mark.parametrize(("gain", "met"), [(0.0049, False), (0.0051, True)])
def test_sorting_gains_only_beyond_the_tolerance_and_the_gain_is_reported(gain: float, met: bool) -> None:
    report = targets(*losses(4.0, 4.0 + gain), bigram=4.0)["small gains by sorting"]
    assert report["met"] is met and report["at_least"] == 0.005 and report["found"] == pytest.approx(gain)


def test_every_target_tells_what_was_found_and_what_was_asked() -> None:
    report = targets(*losses(3.13, 3.6), bigram=4.0)
    assert list(report) == ["parent below a bigram model", "big above the parent", "small above the parent",
                          "small untrained above the parent", "small gains by sorting"]  # fmt: skip
    assert [t["met"] for t in report.values()] == [True] * 5
    assert report["small above the parent"]["found"] == pytest.approx(0.03)
    assert not targets(*losses(3.3, 3.6), bigram=4.0)["small untrained above the parent"]["met"]


def test_the_table_has_losses_cuts_and_answers(tmp_path: Path) -> None:
    metrics = json.loads((make_run(tmp_path / "run") / "metrics.json").read_text())
    for row in metrics["members"]:
        row["answers"]["interval"] = [0.104, 0.26]
    report = markdown(metrics)
    assert "| 0.8m | 704,068 | 45% | 3.360 | 5.420 | 7.050 | 89% | 17% (10% to 26%) |" in report
    assert "96 held-out problems" in report


@pytest.mark.parametrize("settings", [FULL, SHORT])
def test_both_stages_have_a_block_and_steps_of_2048_tokens(settings: Settings) -> None:
    one, two = ElasticConfig.from_dict(settings.block), ElasticConfig.from_dict(settings.stage2_block())
    assert one.weights() == pytest.approx([1 / 3] * 3) and two.weights() == pytest.approx(settings.stage2_sampling)
    assert two.axes == one.axes and two.budgets == one.budgets
    assert {sequences * length for sequences, length in (PARENT, STAGE1, STAGE2)} == {2048}
