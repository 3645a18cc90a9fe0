# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Candidates of every budget train in turn and are halved, until one chain of them is left."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.codes import encode
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.rows import Rows
from nemo_elastic.train.halving import expected, halved
from nemo_elastic.train.members import Candidate, Members
from tests.shapes import PARENT
from tests.train.torch_host import TorchHost
from tests.train.trained import Trained, random_rows

BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.6}, {"name": "small", "ratio": 0.45}],
    "axes": {
        "hidden": [16, 15, 14, 13, 12, 11, 10],
        "ffn": {"choices": [16, 12, 8, 4], "per_layer": True},
        "mamba_heads": {"choices": [6, 4, 2], "per_layer": True},
        "depth": [5, 4, 3],
    },
    "importance": {"samples": 8, "depth_samples": 2},
    "search": {"candidates": 64, "tokens": 64},
    "halving": {"cuts": [0.4, 0.6], "tokens": 64},
}
STEPS = 10
ROWS = random_rows(PARENT.vocab, STEPS, 16)
NAMES = ("large", "small")


class Run(Trained):
    """A stage on rows of 16 tokens, which can go on from what was `saved`. Each step trains every budget once."""

    def __init__(self, out: Path, block: dict[str, Any], steps: int = STEPS, stage: int = 1) -> None:
        config = ElasticConfig.from_dict(block)
        super().__init__(config, config.parent_shape(PARENT), out, ROWS, steps, stage, lr=1e-2)
        self.host.micro_batches, self.family.sampler.budget = 3, lambda step, micro_batch: micro_batch

    def saved(self) -> dict[str, Any]:
        return copy.deepcopy({
            "model": self.host.model.state_dict(), "members": self.family.members.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.host.step,
        })  # fmt: skip

    def load(self, saved: dict[str, Any]) -> Run:
        saved = copy.deepcopy(saved)
        self.host.model.load_state_dict(saved["model"])
        self.family.members.load_state_dict(saved["members"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.host.step = saved["step"]
        return self

    def written(self) -> list[Subnet]:
        file = json.loads((self.out / "members.json").read_text())
        return [Subnet.from_json(m, self.family.parent) for m in file["members"].values()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[dict[str, Any]]]:
    """A run, and what a checkpoint before each of its steps has."""
    run = Run(tmp_path_factory.mktemp("whole"), BLOCK).prepare()
    saved = [run.saved()]
    for step in range(STEPS):
        saved.append(run.go(step + 1).saved())
    return run, saved


Whole = tuple[Run, list[dict[str, Any]]]


def chains_of(kept: Sequence[Sequence[Subnet]]) -> bool:
    """Whether each is part of a nested chain of what was kept."""
    return all(
        all(any(s <= x for x in large) for s in small) and all(any(s <= x for s in small) for x in large)
        for large, small in pairwise(kept)
    )


# ------------------------------------------------------------------ a run


def test_candidates_train_in_turn_and_the_better_ones_stay(whole: Whole) -> None:
    run, _ = whole
    report = json.loads((run.out / "shapes.json").read_text())
    shapes = {name: [Subnet.from_json(m, run.family.parent) for m in report["report"]["candidates"][name]]
              for name in NAMES}  # fmt: skip
    assert [len(own) for own in shapes.values()] == [4, 4] and chains_of(list(shapes.values()))
    assert [own[0].to_json() for own in shapes.values()] == [report["members"][name] for name in NAMES]
    for budget in range(2):
        live = [line["live"][budget] for line in run.lines]
        assert live[:4] == [[0, 1, 2, 3]] * 4 and live[6:] == [[]] * 4
        assert live[4] == live[5] and len(live[4]) == 2 and set(live[4]) < {0, 1, 2, 3}
        trained = [line.get("candidates", {}).get(NAMES[budget]) for line in run.lines]
        assert sorted(n for (n,) in trained[:4]) == [0, 1, 2, 3], "each once in four steps"
        assert sorted(n for (n,) in trained[4:6]) == live[4] and trained[6:] == [None] * 4
    assert [step for step, line in enumerate(run.lines) if "compared" in line] == [4, 6]
    for step, before in ((4, 3), (6, 5)):
        compared, live = run.lines[step]["compared"], run.lines[before]["live"]
        assert {name: sorted(own) for name, own in compared.items()} == dict(zip(NAMES, live, strict=True))


def test_after_a_cut_the_members_are_the_best_chain(whole: Whole, tmp_path: Path) -> None:
    at, (run, saved) = 6, whole
    before, after = (Run(tmp_path, BLOCK).load(saved[step]).family.members for step in (at, at + 1))
    own, now = [before.candidates(budget) for budget in (1, 2)], run.lines[at]["compared"]
    assert chains_of([[c.member for c in each] for each in own])

    def score(chain: tuple[Candidate, Candidate]) -> float:
        return sum(math.log(expected(c.loss, now[name][c.number])) for name, c in zip(NAMES, chain, strict=True))

    best = min(((a, b) for a in own[0] for b in own[1] if b.member <= a.member), key=score)
    assert after.get() == [run.family.parent.full, *(c.member for c in best)]
    for budget, name in enumerate(NAMES, 1):
        assert all(c.loss == now[name][c.number] for c in after.candidates(budget))


def test_at_the_last_cut_shapes_are_frozen_and_written(whole: Whole) -> None:
    run, _ = whole
    frozen = json.loads((run.out / "members.json").read_text())
    assert frozen["report"] == {"source": "halving", "step": 6}
    assert run.written() == run.family.members.get() and run.family.members.is_frozen
    assert run.choices[-2:] == run.written()[1:], "which then train"


@pytest.mark.parametrize("at", [2, 5, 6])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(at: int, whole: Whole, tmp_path: Path) -> None:
    run, saved = whole
    again = Run(tmp_path, BLOCK).load(saved[at]).go()
    assert again.lines == run.lines[at:]
    for part in ("model", "members"):  # weights, and every buffer of candidates
        ours, theirs = again.saved()[part], run.saved()[part]
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours), part
    assert again.family.members.get() == run.family.members.get()
    assert again.written() == run.written()


# ------------------------------------------------------------------ cuts


@pytest.mark.parametrize(
    ("steps", "cuts", "live", "compared"),
    [
        (3, [0.07, 0.2], [0, 0, 0], []),  # the first before any step is taken
        (6, [0.5, 0.5], [4, 4, 4, 0, 0, 0], [3]),  # both at once
        (2, [0.5, 1.0], [4, 1], [1]),  # and behind the last step
    ],
)
def test_cuts_fall_on_their_steps(
    steps: int, cuts: list[float], live: list[int], compared: list[int], whole: Whole, tmp_path: Path
) -> None:
    run = Run(tmp_path, BLOCK | {"halving": {"cuts": cuts, "tokens": 64}}, steps).load(whole[1][0]).go()
    assert [len(line["live"][1]) for line in run.lines] == live
    assert [step for step, line in enumerate(run.lines) if "compared" in line] == compared
    members = run.family.members
    assert members.is_frozen and members.cut == len(cuts) and run.written() == members.get()
    assert json.loads((run.out / "members.json").read_text())["report"]["step"] == round(cuts[-1] * steps)


def test_turns_differ_by_one_and_what_had_none_is_not_compared(whole: Whole, tmp_path: Path) -> None:
    halving = {"cuts": [0.44, 0.7], "tokens": 64}
    run = Run(tmp_path, BLOCK | {"halving": halving, "sampling": {"large": 9, "small": 1}}, 25)
    run.rows, run.host.micro_batches = ROWS.repeat(3, 1), 1
    del run.family.sampler.budget  # as the block says
    run.load(whole[1][0]).go()
    trained = [line.get("candidates", {}) for line in run.lines[:11]]
    turns = {name: Counter(n for line in trained for n in line.get(name, ())) for name in NAMES}
    each = [turns["large"][number] for number in range(4)]
    assert sum(each) > 7 and max(each) - min(each) == 1 and len(turns["small"]) < 4
    compared = run.lines[11]["compared"]
    assert {name: compared.get(name, {}).keys() for name in NAMES} == {name: turns[name].keys() for name in NAMES}


def test_a_later_stage_that_finds_several_makes_the_cuts_at_once(whole: Whole, tmp_path: Path) -> None:
    second = Run(tmp_path, BLOCK, stage=2).load(whole[1][3] | {"step": 0}).go(1)
    assert sorted(second.lines[0]["compared"]["small"]) == [0, 1, 2, 3]
    assert second.lines[0]["live"] == [[], []] and second.family.members.is_frozen


def test_one_candidate_trains_alone(whole: Whole, tmp_path: Path) -> None:
    ranked = {"ranking": str(whole[0].out / "ranking"), "search": BLOCK["search"] | {"keep": 1}}
    run = Run(tmp_path, BLOCK | ranked).prepare().go()
    first = json.loads((run.out / "shapes.json").read_text())["members"]
    assert [m.to_json() for m in run.written()] == list(first.values())
    assert {n for line in run.lines[:6] for own in line["candidates"].values() for n in own} == {0}


# ------------------------------------------------------------------ what stays


def shape(hidden: int, ffn: int) -> Subnet:
    return PARENT.uniform(hidden=hidden, ffn=ffn)


WIDE, DEEP = (shape(16, 8), shape(14, 8), shape(12, 8)), (shape(12, 16), shape(12, 12), shape(10, 12))


def test_nesting_decides_against_the_lower_loss() -> None:
    """Of three budgets: the best of the last is nested in no good one of the first."""
    members = [PARENT.full, WIDE[0], WIDE[1], WIDE[2]]
    measured = [
        [],
        [(Candidate(0, WIDE[0]), 0.10), (Candidate(1, DEEP[0]), 0.50)],
        [(Candidate(0, WIDE[1]), 0.20), (Candidate(1, DEEP[1]), 0.21)],
        [(Candidate(0, WIDE[2]), 0.40), (Candidate(1, DEEP[2]), 0.39)],
    ]
    one = halved(measured, members, 1)
    assert [[c.member for c in own] for own in one] == [[], [WIDE[0]], [WIDE[1]], [WIDE[2]]]
    assert [c.loss for own in one for c in own] == [0.10, 0.20, 0.40], "for the next comparison"
    assert [c.number for own in halved(measured, members, 2) for c in own] == [0, 1] * 3
    measured[3][1] = (Candidate(1, DEEP[2]), 0.01)  # what all others lose by it is little beside it
    assert [own[0].member for own in halved(measured, members, 1)[1:]] == list(DEEP)


def test_a_budget_without_candidates_has_its_member_in_every_chain() -> None:
    measured = [[], [], [(Candidate(0, DEEP[1]), 0.1), (Candidate(3, WIDE[1]), 0.2)]]
    left = halved(measured, [PARENT.full, WIDE[0], WIDE[1]], 2)
    assert left == [[], [], [Candidate(3, WIDE[1], 0.2)]]


def test_what_is_gained_goes_on_and_what_is_lost_counts_as_it_is() -> None:
    assert expected(math.nan, 0.3) == 0.3
    assert expected(0.4, 0.3) == pytest.approx(0.225)
    assert expected(0.2, 0.3) == 0.3
    assert expected(0.0, 0.3) == expected(math.inf, 0.3) == 0.3, "of no use as a start"
    assert expected(0.4, math.nan) == expected(math.nan, math.inf) > 1e6
    gains, leads = Candidate(0, WIDE[0], loss=0.8), Candidate(1, WIDE[1], loss=0.41)
    measured = [[], [(leads, 0.40), (gains, 0.41)]]
    assert halved(measured, [PARENT.full, WIDE[0]], 1)[1] == [gains._replace(loss=0.41)]
    measured[1][1] = (gains, math.nan)
    assert halved(measured, [PARENT.full, WIDE[0]], 1)[1] == [leads._replace(loss=0.40)]


# ------------------------------------------------------------------ checkpoints and data


def test_candidates_travel_with_weights_of_any_precision() -> None:
    held = Members(PARENT, 2, keep=3)
    held.put([PARENT.full, WIDE[0]], frozen=False)
    own = [Candidate(0, WIDE[0], 1 / 3), Candidate(2, WIDE[1])]
    held.put_candidates([[], own], cuts=1)
    state = copy.deepcopy(held).bfloat16().state_dict()
    rows = state["live"][1].tolist()
    assert [rows[0], rows[2]] == [encode(PARENT, WIDE[0]), encode(PARENT, WIDE[1])] and not any(rows[1])
    other = Members(PARENT, 2, keep=3).bfloat16()
    assert not other.known and other.candidates(1) == []
    other.load_state_dict(state)
    first, second = other.candidates(1)
    assert first == own[0] and second[:2] == own[1][:2] and math.isnan(second.loss)
    assert (other.cut, other.candidates(0), other.get()) == (1, [], held.get())
    other.put(other.get(), frozen=True)
    assert other.candidates(1) == [], "a frozen budget has its member"


def test_data_of_which_nothing_counts_is_refused(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def masked(self: TorchHost, count: int, size: int) -> Iterator[Rows]:
        rows = self.data[:count]
        return iter(Rows(rows, torch.zeros(rows.shape)).split(size))

    monkeypatch.setattr(TorchHost, "sequences", masked)
    with pytest.raises(ElasticError, match="data: '8 sequences' "):
        Run(tmp_path, BLOCK | {"ranking": str(whole[0].out / "ranking")}).prepare()
