# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Stage 3 in low precision through NeMo: its steps are those of rounded weights, a killed run goes on the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.hosts.nemo.quantize_worker import STEPS, STOP
from tests.workers import work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("quantize")
    work("tests.hosts.nemo.quantize_worker", place)
    return json.loads((place / "facts.json").read_text())


def test_members_run_as_with_weights_rounded_beforehand(facts: dict[str, Any]) -> None:
    """Before a step, and in the first: its losses, and its gradients, which are those of the rounded weights."""
    ours, rounded, plain = (facts[name] for name in ("whole", "rounded", "plain"))
    assert ours["members"].keys() == {"full", "large", "small"}
    for name, measured in ours["members"].items():
        assert measured == pytest.approx(rounded["members"][name], rel=1e-6)
        assert measured != pytest.approx(plain["members"][name], rel=1e-4)
    assert ours["budgets"][0] == pytest.approx(rounded["budgets"][0], rel=1e-6)
    assert ours["norms"][0] == pytest.approx(rounded["norms"][0], rel=1e-5) and ours["norms"][0] > 0
    assert ours["budgets"][0] != pytest.approx(plain["budgets"][0], rel=1e-5)


def test_a_killed_run_goes_on_as_an_uninterrupted_one(facts: dict[str, Any]) -> None:
    whole, killed = facts["whole"], facts["killed"]
    assert (whole["from"], killed["from"], len(whole["losses"])) == (0, STOP, STEPS)
    assert killed["losses"] == whole["losses"][STOP:]
    assert killed["state"] == whole["state"]


def test_the_weights_themselves_are_trained(facts: dict[str, Any]) -> None:
    """They are not rounded in a checkpoint, and other gradients have moved them."""
    assert facts["whole"]["state"] != facts["plain"]["state"] != facts["rounded"]["state"]
