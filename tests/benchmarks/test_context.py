# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Texts that need a long context: read by a reader of its own, they ask what they say, from where they say."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.study.context import answers, held_out, write_documents
from benchmarks.study.context_texts import KINDS, LENGTH, LEVELS, SHORT, WORDS, Document, documents
from nemo_elastic.data.build import EOS, EOS_ID, PAD

COUNTS = {"train": 3, "train_long": 2, "val": 6}
#: mark of a question -> names that it gives
_GIVEN = {"?": 1, "??": 1, "???": 1, "+": 3}


def read(document: Document) -> dict[tuple[int, int], tuple[str, list[str], int]]:
    """(start, end) of every whole answer -> kind, what the facts before it make of the question, distance."""
    words, at, facts, out = document.words, 0, {}, {}
    while at < len(words):
        mark = words[at]
        if mark in "=#":
            if at + 3 <= len(words):
                facts[words[at + 1]] = (words[at + 2], at)
            at += 3
            continue
        needed = words[at + 1 : at + 1 + _GIVEN[mark]]
        start = at + 1 + len(needed)
        if start >= len(words):
            break
        if mark == "+":
            kind, answer = "sum of 3", [str(n) for n in np.cumsum([int(facts[name][0]) for name in needed])]
        else:
            while len(needed) < len(mark):
                needed.append(facts[needed[-1]][0])
            kind, answer = ("recall", "chain of 2", "chain of 3")[len(mark) - 1], [facts[name][0] for name in needed]
        at = start + len(answer)
        if at <= len(words):
            out[start, at] = (kind, answer, start - min(facts[name][1] for name in needed))
    return out


def test_every_answer_follows_from_what_was_said_and_stands_as_far_behind_it_as_asked() -> None:
    seen: dict[tuple[str, int], int] = {}
    for document in islice(documents("val"), 40):
        assert len(document.words) == LENGTH - 1 and set(document.words) <= set(WORDS)
        actual = read(document)
        assert set(actual) == {(q.start, q.end) for q in document.questions}
        for q in document.questions:
            kind, answer, distance = actual[q.start, q.end]
            assert (q.kind, document.words[q.start : q.end], q.distance) == (kind, answer, distance)
            low = (0, *LEVELS)[LEVELS.index(q.level)]
            assert low < q.distance <= q.level
            seen[q.kind, q.level] = seen.get((q.kind, q.level), 0) + 1
    # every kind is asked at every distance, most often enough to tell shares
    assert {(kind, level) for kind in KINDS for level in LEVELS} - set(seen) <= {("chain of 3", 64)}
    assert all(sum(n for (_, at), n in seen.items() if at == level) >= 100 for level in LEVELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("study") / "data", COUNTS)


def test_a_token_is_a_word_and_a_document_a_whole_sequence(folder: Path) -> None:
    rows = held_out(folder)
    assert rows.shape == (COUNTS["val"], LENGTH)
    for row, document in zip(rows, documents("val"), strict=False):
        assert row[-1] == EOS_ID
        assert [WORDS[i - len((PAD, EOS))] for i in row[:-1]] == document.words
    short = next(documents("val", length=SHORT))
    assert len(short.words) == SHORT - 1 and len(short.questions) > 8


def test_answers_are_counted_where_they_stand(folder: Path) -> None:
    """A reader that knows all but the answers of one level: right everywhere else, and the loss tells where."""
    rows = torch.as_tensor(held_out(folder).astype("int64"))
    spoilt = rows.clone()
    for row, document in zip(spoilt, documents("val"), strict=False):
        for q in document.questions:
            if q.level == 256:
                row[q.start] += 1  # the first word alone is enough

    def reader(tokens: torch.Tensor, member: object) -> torch.Tensor:
        report = [spoilt[(rows[:, :-1] == t).all(1)][0, 1:] for t in tokens]
        return 20.0 * torch.nn.functional.one_hot(torch.stack(report), 258)

    result = answers(reader, folder, batch=4)
    asked = [q for d in islice(documents("val"), COUNTS["val"]) for q in d.questions]
    for kind in KINDS:
        for level in LEVELS:
            count = sum(q.kind == kind and q.level == level for q in asked)
            right = 0 if level == 256 else count
            assert result["right"].get(kind, {}).get(str(level), [0, 0]) == [right, count]
    wrong = [q.start for q in asked if q.level == 256]
    places = (sum(s < SHORT for s in wrong), sum(s >= SHORT for s in wrong))
    for part, count, of in zip(("first", "behind"), places, (SHORT - 1, LENGTH - SHORT), strict=True):
        assert result["nats"][part] == pytest.approx(20.0 * count / of / len(rows), abs=1e-4)
