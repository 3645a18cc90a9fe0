# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The ground of several studies: its rows, its problems, and what a member spends."""

from __future__ import annotations

from itertools import islice

from benchmarks.study.grounds import fresh
from benchmarks.study.problems import (
    ALPHABET,
    END,
    LENGTH,
    batches,
    encode,
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
