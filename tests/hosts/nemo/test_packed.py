# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Packed fine-tuning data of NeMo's: every layout trains what one rank does, and documents are apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.bridge.layouts import lines, losses, same
from tests.hosts.nemo.packed_worker import LAYOUTS, MICRO_BATCHES, STEPS
from tests.parallel.runs import LENGTH
from tests.workers import work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packed")
    work("tests.hosts.nemo.packed_worker", place)
    return place


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.world > 1])
def test_two_ranks_train_on_packed_documents_what_one_does(place: Path, name: str) -> None:
    """Answers alone count, of which ranks have unequal numbers. Candidates are compared before the second step."""
    alone = "halved" if LAYOUTS[name].halved else "alone"
    same(place / name, place / alone)
    assert ("compared" in lines(place / name)[1]) == LAYOUTS[name].halved
    for run in (name, alone):
        counted = [line["tokens"] for line in lines(place / run)]
        assert 0 < counted[0] < counted[1] < STEPS * MICRO_BATCHES * LENGTH


def test_packed_documents_are_apart_unless_the_block_joins_them(place: Path) -> None:
    apart, joined = (losses(place / name)[0]["loss_large"] for name in ("alone", "joined"))
    assert abs(apart - joined) > 1e-4 * apart
