# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The hosts' own packed prompts and answers: every layout trains what one rank does, documents are apart, and a killed
run goes on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.compare import identical, lines, losses, same
from tests.parallel.forks import measured
from tests.parallel.runs import CONVERSATIONS, LENGTH, Job, Layout, do, host, prepare, write_prompts

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]
STEPS, ROWS = 2, 4
ALONE = Layout(micro_batches=ROWS, mode="frozen_ce", searched=True, batch=1)
#: rows of several documents, one to a micro-batch; of four in a step each draws the one member
LAYOUTS = {
    "dp2": replace(ALONE, data=2, batch=2, micro_batches=ROWS // 2),
    "pp2": replace(ALONE, pipeline=2),
}
if host().__name__.endswith("bridge"):
    #: as Bridge wants it where ranks share conversations out: each token of a step for as much as another
    SHARED = replace(ALONE, context=2, per_token=True)
    LAYOUTS |= {
        "tp2-sp": replace(ALONE, tensor=2, sequence=True, recompute="full"),
        "cp2": SHARED, "cp2-tp2-sp": replace(SHARED, tensor=2, sequence=True),
    }  # fmt: skip
WRAPS, STOP = 6, 4


def alone(name: str) -> Layout:
    """One rank that trains the same."""
    return replace(LAYOUTS[name].alone, micro_batches=ROWS, batch=1)


def packed(out: str, layout: Layout, steps: int = STEPS, **more: Any) -> Job:
    changes: dict[str, Any] = {"sampling": {"large": 1}} | (
        {"data": {"documents": "joined"}} if out == "joined" else {}
    )
    return Job(out, layout=layout, packed=True, changes=changes, steps=steps, **more)


def measure(place: Path, parts: Collection[str]) -> None:
    prepare(place)
    write_prompts(place)
    singles = {each.name: each for each in map(alone, LAYOUTS)}
    do(place, *(packed(name, layout) for name, layout in (singles | LAYOUTS | {"joined": ALONE}).items()))
    few: dict[str, Any] = {"few": True, "steps": WRAPS, "save_every": 1}
    do(
        place,
        packed("wraps", ALONE, **few),
        packed("killed", ALONE, until=STOP, **few),
        packed("killed", ALONE, **few),
    )


place = measured(measure)


@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_train_on_packed_documents_what_one_does(place: Path, name: str) -> None:
    """Answers alone count, of which ranks have unequal numbers."""
    single = alone(name).name
    same(place / name, place / single)
    for run in (place / name, place / single):
        counted = [line["tokens"] for line in lines(run)]
        assert 0 < counted[0] < counted[1] < STEPS * ROWS * LENGTH


def test_packed_documents_are_apart_unless_the_block_joins_them(place: Path) -> None:
    apart, joined = (losses(place / name)[0]["loss_large"] for name in (ALONE.name, "joined"))
    assert abs(apart - joined) > 1e-6, "runs of other ranks are 1e-7 apart"


def test_a_killed_run_that_wraps_its_data_goes_on_as_an_uninterrupted_one(place: Path) -> None:
    """Six steps of four rows: of fewer conversations, several to a row."""
    assert CONVERSATIONS < WRAPS * ROWS
    assert [line["step"] for line in lines(place / "killed")] == list(range(1, WRAPS + 1))
    identical(place / "killed", place / "wraps")
