# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family with experts on Megatron-Bridge: ranks that share them against one rank, a second stage, and a kill.

That members are cut as they were trained is in `tests/megatron/test_moe_layer.py` and `test_without.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic.formats.megatron.stored import Stored
from tests.hosts.bridge.experts import ONE, RANKED, SHARED, TRAINED, alone, measure
from tests.parallel.compare import losses, rankings_apart, same
from tests.parallel.forks import measured
from tests.parallel.runs import ranking_of

pytestmark = [pytest.mark.slow(minutes=3), pytest.mark.dist]
place = measured(measure)


@pytest.mark.parametrize("name", TRAINED)
def test_ranks_train_what_one_does(place: Path, name: str) -> None:
    same(place / name, place / alone(name))


@pytest.mark.parametrize("name", RANKED)
def test_ranks_find_the_orders_members_and_weights_of_one(place: Path, name: str) -> None:
    assert rankings_apart(place / f"rank-{name}", place / ranking_of(ONE)).alike


def test_a_training_finds_its_members_itself(place: Path) -> None:
    """On two ranks that share experts, as one does that starts from a ranking."""
    same(place / "by-itself", place / alone("tp2-sp"))


@pytest.mark.parametrize(("before", "now"), SHARED[1:])
def test_a_second_stage_goes_on_where_ranks_begin_to_share_experts_or_cease_to(
    place: Path, before: int, now: int
) -> None:
    """megatron-core has an optimizer of its own for experts that ranks share, and loads as many as were saved."""
    same(place / f"second-{before}-{now}", place / "second-1-1")


def test_a_killed_run_goes_on_on_ranks_that_share_experts_where_none_did(place: Path) -> None:
    same(place / "moved", place / "unmoved")
    assert len(losses(place / "moved")) == 3


@pytest.mark.parametrize("name", TRAINED)
def test_the_balance_of_experts_moves_in_steps_that_run_the_whole_model(place: Path, name: str) -> None:
    """Once for each such step, whatever the other micro-batches ran."""
    steps = sum("loss_full" in line for line in losses(place / name))
    start = ranking_of(TRAINED[name])
    actual, before = (Stored(place / run / "checkpoints") for run in (name, start))
    keys = [key for key in actual.sizes if key.endswith("expert_bias")]
    moved = [(actual.read(key) - before.read(key)).abs() for key in keys]
    assert steps == 1 and len(moved) == 2
    for each in moved:
        assert set((each / 1e-2).round(decimals=3).tolist()) <= {0.0, 1.0} and each.any()
