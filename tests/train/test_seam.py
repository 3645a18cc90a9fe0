# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The seam between the algorithm and who trains: plain torch gets what NeMo gets, step for step."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workers import work

pytestmark = [pytest.mark.nemo, pytest.mark.slow]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("seam")
    work("tests.train.seam_worker", folder)
    return json.loads((folder / "facts.json").read_text())


@pytest.fixture(params=["router", "halving"])
def facts(both: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    return both[request.param]


def test_both_find_the_same_members(facts: dict[str, Any]) -> None:
    assert facts["torch"]["prepared"] == facts["nemo"]["prepared"]
    assert facts["torch"]["members"] == facts["nemo"]["members"]


def test_every_micro_batch_loses_the_same(facts: dict[str, Any]) -> None:
    """To rounding before the first update; then as far apart as Adam carries it, which depends on the processor."""
    ours, theirs = facts["torch"]["losses"], facts["nemo"]["losses"]
    assert len(ours) == len(theirs) == 16
    kinds = {len(parts) for parts in ours}
    assert kinds == {2}  # one budget each, and the sum with the router's
    for mine, nemo in zip(ours, theirs, strict=True):
        assert [part[:2] for part in mine[:-1]] == [part[:2] for part in nemo[:-1]]
        wanted = [part[2] for part in nemo[:-1]] + nemo[-1:]
        near = {"rel": 1e-4, "abs": 1e-4} if nemo[0][0] == 0 else {"rel": 6e-3, "abs": 5e-3}
        assert [part[2] for part in mine[:-1]] + mine[-1:] == pytest.approx(wanted, **near)


def test_candidates_are_compared_by_the_same_losses(both: dict[str, Any]) -> None:
    ours, theirs = (both["halving"][host]["compared"] for host in ("torch", "nemo"))
    assert len(ours) == len(theirs) == 2 and len(ours[0]) >= len(ours[1]) > 2
    for mine, nemo in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(nemo, rel=1e-2)
    assert both["router"]["nemo"]["compared"] == []


def test_weights_and_router_end_where_nemos_do(facts: dict[str, Any]) -> None:
    """Apart by little of the way they have come: where a gradient is nearly zero Adam makes much of rounding."""
    assert facts["apart"] < 0.03


def test_every_member_is_validated(facts: dict[str, Any]) -> None:
    losses = facts["torch"]["heldout"]
    assert list(losses) == ["full", "large", "small"] and all(3 < loss < 7 for loss in losses.values())
