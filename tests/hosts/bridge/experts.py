# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of a tiny family with experts on Megatron-Bridge: trained and ranked by ranks that share them, and by one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.parallel.runs import Job, Layout, do, prepare_data, ranking_of

STEPS = 2
#: with a loss that is not zero where the teacher is met
EVEN = Layout(experts=1, micro_batches=2, mode="frozen_ce")
SEVERAL = replace(EVEN, searched=True)
TRAINED = {
    "ep2": replace(EVEN, data=2, soft=True, experts=2),
    "tp2-sp": replace(SEVERAL, tensor=2, sequence=True, recompute="full"),
    "pp2": replace(SEVERAL, pipeline=2),
    "cp2-dp2-ep2": replace(SEVERAL, context=2, data=2, experts=2),
}
#: on one rank
ONE = Layout(experts=1, searched=True)
RANKED = {
    "ep2-dp2": replace(ONE, data=4, experts=2, batch=4),
    "cp2-tp2-sp": replace(ONE, context=2, tensor=2, sequence=True),
}
#: of a stage that another follows, and ranks that share the experts in the one and in the other
HANDED = replace(SEVERAL, data=2, sharded=True)
SHARED = [(1, 1), (1, 2), (2, 1)]


def alone(name: str) -> str:
    """The run of one rank that trains the same as a layout of several; layouts that do share it."""
    return TRAINED[name].alone.name


def measure(place: Path, parts: Collection[str]) -> None:
    """Everything on one rank; then in all layouts of several, where one run is killed and goes on."""

    def stage(name: str, layout: Layout, steps: int = STEPS, **more: Any) -> Job:
        return Job(name, layout=layout, steps=steps, **more)

    def rank(name: str, layout: Layout) -> Job:
        return Job(name, "rank", layout, steps=2 * ONE.batch // layout.batch)  # as many sequences as are ranked

    def second(before: int, now: int) -> Job:
        more: dict[str, Any] = {"longer": True, "previous": (f"first-{before}", STEPS)}
        return stage(f"second-{before}-{now}", replace(HANDED, experts=now), kind="stage2", **more)

    prepare_data(place)
    moved = stage("moved", HANDED, steps=3, save_every=1)
    do(
        place,
        Job("parent", "parent", Layout(experts=1)),
        *(rank(ranking_of(layout), layout) for layout in (ONE, replace(ONE, searched=False, soft=True))),
        *(stage(name, layout) for name, layout in {alone(name): one.alone for name, one in TRAINED.items()}.items()),
        *(rank(f"rank-{name}", layout) for name, layout in RANKED.items()),
        *(stage(name, layout) for name, layout in TRAINED.items()),
        stage("by-itself", replace(SEVERAL, data=2, experts=2), ranked=None),
        *(stage(f"first-{experts}", replace(HANDED, experts=experts)) for experts in (1, 2)),
        *(second(*pair) for pair in SHARED),
        stage("unmoved", HANDED, steps=3),
        replace(moved, until=2),
        replace(moved, layout=replace(HANDED, experts=2)),
    )
