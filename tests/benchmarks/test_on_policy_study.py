# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The study of on-policy distillation: its rows, what it counts as spent, and its table."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from benchmarks.study.on_policy import (
    ALPHABET,
    BATCH,
    END,
    LENGTH,
    PARENT,
    WAYS,
    Distilling,
    Result,
    batches,
    encode,
    fresh,
    page,
    problems,
    right,
)


def test_rows_count_the_answer_and_its_end_alone() -> None:
    rows = next(batches(0))
    for tokens, labels, mask in zip(*rows, strict=True):
        counted = "".join(ALPHABET[i] for i in labels[mask > 0].tolist())
        asked = "".join(ALPHABET[i] for i in tokens[: int(mask.nonzero()[0]) + 1].tolist())
        assert asked.startswith("question: ") and asked.endswith("\nsteps:")
        assert counted.endswith("\n<end>") and "answer: " in counted


def test_what_is_asked_is_never_trained_on() -> None:
    trained, asked = ({p.question for p in islice(problems(3, held), 300)} for held in (False, True))
    assert len(asked) > 30 and not trained & asked
    assert all(len(encode(p.text)) < LENGTH for p in islice(problems(4, True), 50))


def test_a_right_answer_is_one() -> None:
    asked = list(islice(problems(3, True), 4))
    assert right(fresh(0), None, asked) == 0
    said = [encode(p.completion) + [END] for p in asked]
    model = fresh(0)
    model.generate = lambda *_: said  # pyright: ignore[reportAttributeAccessIssue]
    assert right(model, None, asked) == 1
    said[0] = encode(" answer: none\n")
    assert right(model, None, asked) == 0.75


@pytest.mark.parametrize("way", ["data's answers, forward KL", "its own"])
def test_ways_spend_what_they_are_given_and_writing_counts(way: str, tmp_path: Path) -> None:
    run = Distilling(fresh(0), way, 0, tmp_path, {"ratio": 0.4})
    token = 3 * run.cost(run.member) + run.cost(PARENT.full)
    steps = run.train(2 * BATCH * LENGTH * token)
    assert (steps, run.generated) == (2, 0) if WAYS[way][0] == 0 else run.generated > 0
    assert run.spent == pytest.approx(steps * BATCH * LENGTH * token + run.generated)
    assert run.generated <= steps * BATCH * LENGTH * run.cost(run.member)


def test_the_table_has_every_way_and_the_mean_of_its_seeds() -> None:
    results = [Result(way, seed, 10, 1e9, 0.25, 0.5 + seed / 10, 0.1, 0.2) for way in WAYS for seed in (0, 1, 2)]
    lines = page(results, 0.9, 0.1, "facts").splitlines()
    assert lines[2].startswith("| the parent |") and "90.0%" in lines[2]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[4 : 4 + len(WAYS)]] == list(WAYS)
    assert "| 10 | 25% | 60.0% | 50.0%, 60.0%, 70.0% | 0.1000 | 0.2000 |" in lines[4]
