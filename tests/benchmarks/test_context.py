# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Texts that need a long context: read by a reader of its own, they ask what they say, from where they say."""

from __future__ import annotations

import re
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.study import data as study_data
from benchmarks.study.context import KINDS, LENGTH, LEVELS, SHORT, Document, documents
from benchmarks.study.evaluate import answers

COUNTS = {"train": 3, "train_long": 2, "val": 6}
_FACT = re.compile(r"(?P<name>[A-Z][a-z])(?P<is>[=#])(?P<value>[A-Z][a-z]|\d);")
_ASKED = re.compile(r"(?P<what>[123][A-Z][a-z]|\+[A-Z][a-z],[A-Z][a-z],[A-Z][a-z]):(?P<answer>[^;]*;)")


def read(document: Document) -> dict[tuple[int, int], tuple[str, str, int]]:
    """(start, end) of every whole answer -> kind, what the facts before it make of the question, distance."""
    at, facts, out = 0, {}, {}
    while at < len(document.text):
        fact = _FACT.match(document.text, at)
        asked = _ASKED.match(document.text, at)
        if fact:
            facts[fact["name"]] = (fact["value"], at)
            at = fact.end()
        elif asked:
            what = asked["what"]
            if what[0] == "+":
                needed = what[1:].split(",")
                running = np.cumsum([int(facts[name][0]) for name in needed])
                kind, answer = "sum of 3", ",".join(map(str, running))
            else:
                needed = [what[1:]]
                while len(needed) < int(what[0]):
                    needed.append(facts[needed[-1]][0])
                kind = "recall" if what[0] == "1" else f"chain of {what[0]}"
                answer = ",".join(facts[name][0] for name in needed)
            start = asked.start("answer")
            out[start, asked.end()] = (kind, answer + ";", start - min(facts[name][1] for name in needed))
            at = asked.end()
        else:  # the last statement is cut
            assert len(document.text) - at < 24
            break
    return out


def test_every_answer_follows_from_what_was_said_and_stands_as_far_behind_it_as_told() -> None:
    seen: dict[tuple[str, int], int] = {}
    for document in islice(documents("val"), 40):
        assert len(document.text) == LENGTH - 1 and document.text.isascii()
        found = read(document)
        assert set(found) == {(q.start, q.end) for q in document.questions}
        for q in document.questions:
            kind, answer, distance = found[q.start, q.end]
            assert (q.kind, document.text[q.start : q.end], q.distance) == (kind, answer, distance)
            low = (0, *LEVELS)[LEVELS.index(q.level)]
            assert low < q.distance <= q.level
            seen[q.kind, q.level] = seen.get((q.kind, q.level), 0) + 1
    # every kind is asked at every distance, most often enough to tell shares
    assert {(kind, level) for kind in KINDS for level in LEVELS} - set(seen) <= {("chain of 3", 64)}
    assert all(sum(n for (_, at), n in seen.items() if at == level) >= 100 for level in LEVELS)


def test_splits_and_seeds_differ_and_come_again() -> None:
    first = [[d.text for d in islice(documents(*key), 2)] for key in (("val",), ("val",), ("train",), ("val", 1))]
    assert first[0] == first[1]
    assert len({texts[0] for texts in first}) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "data_context"
    study_data.context(out, COUNTS)
    return out


def test_a_token_is_a_byte_and_a_document_a_whole_sequence(folder: Path) -> None:
    rows = study_data.held_out(folder)
    assert rows.shape == (COUNTS["val"], LENGTH)
    texts = study_data.context_texts("val", COUNTS["val"])
    characters = {c: int(rows[0, i]) for i, c in enumerate(texts[0])}
    for row, text in zip(rows, texts, strict=True):
        assert row[-1] == 1 and len(text) == LENGTH - 1
        assert all(characters.setdefault(c, int(t)) == t for c, t in zip(text, row, strict=False))


def test_answers_are_counted_where_they_stand(folder: Path) -> None:
    """A reader that knows all but the answers of one level: right everywhere else, and the loss tells where."""
    rows = torch.as_tensor(study_data.held_out(folder).astype("int64"))
    spoilt = rows.clone()
    for row, document in zip(spoilt, documents("val"), strict=False):
        for q in document.questions:
            if q.level == 256:
                row[q.start] += 1  # the first byte alone is enough

    def reader(tokens: torch.Tensor, member: object) -> torch.Tensor:
        told = [spoilt[(rows[:, :-1] == t).all(1)][0, 1:] for t in tokens]
        return 20.0 * torch.nn.functional.one_hot(torch.stack(told), 258)

    found = answers(reader, folder, batch=4)
    asked = [q for d in islice(documents("val"), COUNTS["val"]) for q in d.questions]
    for kind in KINDS:
        for level in LEVELS:
            count = sum(q.kind == kind and q.level == level for q in asked)
            right = 0 if level == 256 else count
            assert found["right"].get(kind, {}).get(level, [0, 0]) == [right, count]
    wrong = [q.start for q in asked if q.level == 256]
    places = (sum(s < SHORT for s in wrong), sum(s >= SHORT for s in wrong))
    for part, count, of in zip(("first", "behind"), places, (SHORT - 1, LENGTH - SHORT), strict=True):
        assert found["nats"][part] == pytest.approx(20.0 * count / of / len(rows), abs=1e-4)


def test_levels_rise_to_a_whole_document() -> None:
    assert all(low < high for low, high in pairwise(LEVELS)) and LEVELS[-1] == LENGTH and SHORT in LEVELS
