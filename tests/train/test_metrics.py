# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How far a training is: a line that moves in a terminal, few lines elsewhere; what a step says of the router."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_elastic import history
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.train import metrics
from nemo_elastic.train.members import Members
from nemo_elastic.train.metrics import Progress, append, start_again, step_facts_of
from nemo_elastic.train.training import FamilyTraining
from tests.ranking.test_sorting import unstriped
from tests.shapes import LATENT
from tests.support.expected import expected_member

BLOCK = {
    "budgets": [
        {"name": "full"},
        {"name": "large", "ratio": 0.8},
        {"name": "small", "active_params": 6500, "ratio": 0.7},
    ],
    "axes": {"hidden": [16, 12], "depth": [5, 4], "experts": {"choices": [8, 6, 4], "per_layer": True}},
    "shapes": "router",
}


def train(first: int, total: int, prints: bool = True) -> None:
    progress = Progress("stage 1", total, first)
    for done in range(first + 1, total + 1):
        progress.show(done, {"loss_full": 3.0 - done / total}, prints)


def test_few_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    train(0, 430)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == metrics.PARTS
    assert lines[0].startswith("  stage 1: step 43/430  full 2.900") and "step 430/430  full 2.000" in lines[-1]
    train(215, 430)  # of a run that goes on, too
    assert len(capsys.readouterr().out.splitlines()) == metrics.PARTS // 2
    train(0, 430, prints=False)
    assert capsys.readouterr().out == ""


def test_seconds_left_count_steps_and_not_the_ranking_before_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step is over after 100 s of ranking, search and kernels that compile; a step takes one."""
    clock = iter([0.0, *(100.0 + step for step in range(10))])
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    train(0, 10)
    first, *later = capsys.readouterr().out.splitlines()
    assert "left" not in first
    assert [line.rpartition("  ")[2].strip() for line in later] == [f"{left} s left" for left in range(8, -1, -1)]


def test_a_line_that_moves_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(metrics, "OFTEN", 0.0)
    train(0, 20)
    out = capsys.readouterr().out
    assert out.count("\r") == 20 and out.count("\n") == 1 and out.endswith("\n")


@pytest.mark.parametrize("most", [1 << 26, 8])
def test_a_run_that_goes_on_keeps_its_file_however_long_it_is(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_BYTES", most)
    file = tmp_path / history.METRICS
    assert start_again(file, 0) == (0, 0, -1) and file.read_text() == ""
    lines = [{"kind": kind, "step": step, "tokens": 8 * step, "seconds": step / 2, "losses": {}}
             for step in range(1, 6) for kind in ("step", "heldout")]  # fmt: skip
    for line in lines:
        append(file, line)
    assert start_again(file, 4) == (32, 2.0, 4)
    assert [json.loads(line) for line in file.read_text().splitlines()] == lines[:8]


def test_a_step_logs_each_of_several_limits_and_the_one_that_is_used_most() -> None:
    family = FamilyTraining(ElasticConfig.from_dict(BLOCK), steps=8)
    parent = family.config.parent_shape(unstriped(LATENT))
    family.members = Members(parent, 3, family.new_router(parent))
    family.members.put([parent.full] * 3, frozen=False)
    facts: dict[str, dict[str, float]] = {}
    for step in range(64):
        family.next_sample(SimpleNamespace(step=step % 4))  # pyright: ignore[reportArgumentType]
        if family.last_router:
            asked = family.config.budgets[family.last_router["budget"]]
            name = asked.name
            facts[name] = step_facts_of(family, {})
            expected = expected_member(family.space(parent), family.last_router["routed"].probabilities)
            limits = {limit.field: limit for limit in asked.limits}
            shares = {field: float(limit.share(parent, expected)) for field, limit in limits.items()}
            assert facts[name][f"cost_{name}"] == pytest.approx(max(shares.values()), rel=1e-6)
            logged = {k: v for k, v in facts[name].items() if k.startswith("limit_")}
            several = shares if len(shares) > 1 else {}
            assert logged == pytest.approx({f"limit_{k}_{name}": share for k, share in several.items()}, rel=1e-6)
    assert {"large", "small"} == set(facts)
