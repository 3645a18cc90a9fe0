# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of a tiny family with experts on Megatron-Bridge: trained and ranked by ranks that share them, and by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.ranking import Ranking
from tests.hosts.bridge.layouts import do, shapes
from tests.hosts.bridge.runs import BATCH, Job
from tests.parallel.runs import Layout

#: relative to the largest of its kind, of a score; and of a candidate's loss
SCORE, CANDIDATE = 1e-5, 1e-4
STEPS = 2


class Ranks(NamedTuple):
    """A layout of ranks.

    Attributes:
        layout: of all but experts, and what is trained: with a loss that is not zero where the teacher is met.
        experts: ranks that share the experts.
        batch: sequences of a micro-batch of all data-parallel ranks.
    """

    layout: Layout
    experts: int = 1
    batch: int = BATCH

    @property
    def name(self) -> str:
        return f"ep{self.experts}-{self.layout.name}"


TRAINED = {
    "ep2": Ranks(Layout(data=2, micro_batches=2, soft=True, mode="frozen_ce"), 2),
    "tp2-sp": Ranks(Layout(tensor=2, sequence=True, micro_batches=2, recompute="full", mode="frozen_ce", halved=True)),
    "pp2": Ranks(Layout(pipeline=2, micro_batches=2, mode="frozen_ce", halved=True)),
    "ep2-dp2": Ranks(Layout(data=4, micro_batches=2, mode="frozen_ce", halved=True), 2, batch=4),
    "cp2-ep2": Ranks(Layout(context=2, micro_batches=2, soft=True, mode="frozen_ce"), 2),
    "cp2-dp2-ep2": Ranks(Layout(context=2, data=2, micro_batches=2, mode="frozen_ce", halved=True), 2),
}
RANKED = {
    "ep2": Ranks(Layout(data=2, halved=True), 2),
    "tp2-sp": Ranks(Layout(tensor=2, sequence=True, halved=True)),
    "ep2-dp2": Ranks(Layout(data=4, halved=True), 2, batch=4),
    "cp2-ep2": Ranks(Layout(context=2, halved=True), 2),
    "cp2-tp2-sp": Ranks(Layout(context=2, tensor=2, sequence=True, halved=True)),
}


#: on one rank
ONE = Layout(halved=True)
#: of a stage that another follows, and ranks that share the experts in the one and in the other
HANDED = Layout(data=2, sharded=True, micro_batches=2, mode="frozen_ce", halved=True)
SHARED = [(1, 1), (1, 2), (2, 1)]


def ranked(layout: Layout) -> str:
    """What one rank's ranking leaves for runs of a layout's shapes."""
    return f"rank-{shapes(layout)}"


def alone(name: str) -> str:
    """The run of one rank that trains the same as a layout of several; layouts that do share it."""
    layout, _, batch = TRAINED[name]
    return f"alone-{layout.alone.name}-{batch}"


def train_experts(place: Path) -> None:
    """Everything on one rank, where one run is killed and goes on; then in all layouts of several.

    Raises:
        AssertionError: one failed, with the end of what it said.
    """
    parent = str(place / "parent" / "checkpoints")

    def stage(name: str, ranks: Ranks, steps: int = STEPS, by_itself: bool = False, **more: Any) -> Job:
        start = None if by_itself else str(place / ranked(ranks.layout) / "checkpoints")
        layout, experts, batch = ranks
        return Job(str(place / name), layout=layout, experts=experts, batch=batch, steps=steps, teacher=parent,
                   ranked=start, **more)  # fmt: skip

    def rank(name: str, ranks: Ranks) -> Job:
        layout, experts, batch = ranks
        steps = 2 * BATCH // batch  # of which the data has as many sequences as are ranked
        return Job(str(place / name), "rank", layout, batch, steps, teacher=parent, experts=experts)

    singles = {alone(name): Ranks(ranks.layout.alone, batch=ranks.batch) for name, ranks in TRAINED.items()}
    itself = Ranks(Layout(data=2, micro_batches=2, mode="frozen_ce", halved=True), 2)
    jobs = [
        Job(str(place / "parent"), kind="parent", steps=2, experts=1),
        *(rank(ranked(layout), Ranks(layout)) for layout in (ONE, Layout(soft=True))),
        *(stage(name, ranks) for name, ranks in singles.items()),
        stage("whole", Ranks(ONE), steps=3),
        stage("killed", Ranks(ONE), steps=3, save_every=1, until=2),
        stage("killed", Ranks(ONE), steps=3, save_every=1),
        *(rank(f"rank-{name}", ranks) for name, ranks in RANKED.items()),
        *(stage(name, ranks) for name, ranks in TRAINED.items()),
        stage("by-itself", itself, by_itself=True),
        *(stage(f"first-{ranks}", Ranks(HANDED, ranks)) for ranks in (1, 2)),
        *(
            stage(
                f"second-{before}-{ranks}",
                Ranks(HANDED, ranks),
                kind="stage2",
                done=STEPS,
                longer=True,
                by_itself=True,
                previous=str(place / f"first-{before}" / "checkpoints"),
            )
            for before, ranks in SHARED
        ),
        stage("unmoved", Ranks(HANDED), steps=3),
        stage("moved", Ranks(HANDED), steps=3, save_every=1, until=2),
        stage("moved", Ranks(HANDED, 2), steps=3, save_every=1),
    ]
    do(place, "experts", jobs)


class Deviation(NamedTuple):
    """How far two rankings and searches are apart that found the same orders and members.

    Attributes:
        score: of any axis, relative to the largest of a layer, or of a dropped layer.
        loss: relative, of any candidate.
        weights: how many tensors are not the same, bit by bit.
    """

    score: float
    loss: float
    weights: int


def rankings_apart(actual: Path, wanted: Path) -> Deviation:
    """Compare what two ranking jobs left.

    Raises:
        AssertionError: other orders, another depth, other members or candidates.
    """
    ours, theirs = (Ranking.load(run / "checkpoints" / "elastic" / "ranking") for run in (actual, wanted))
    assert ours.digest == theirs.digest and ours.scores.keys() == theirs.scores.keys()
    pairs = [(ours.scores[name], value) for name, value in theirs.scores.items()]
    pairs += [tuple(np.array([s for s in r.depth_scores if s is not None]) for r in (ours, theirs))]  # pyright: ignore
    score = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    left = [json.loads((run / "checkpoints" / "elastic" / "shapes.json").read_text()) for run in (actual, wanted)]
    one, other = (found["report"] for found in left)
    assert left[0]["members"] == left[1]["members"] and one["source"] == "search"
    assert one["candidates"] == other["candidates"]
    traces = [one["trace"], other["trace"]]
    for a, b in zip(*traces, strict=True):
        assert {**a, "loss": 0} == {**b, "loss": 0}
    loss = max(abs(a["loss"] - b["loss"]) / b["loss"] for a, b in zip(*traces, strict=True) if b["loss"])
    held = [Stored(run / "checkpoints").held() for run in (actual, wanted)]
    assert held[0].keys() == held[1].keys()
    weights = sum(not torch.equal(value, held[1][name]) for name, value in held[0].items())
    return Deviation(score, loss, weights)
