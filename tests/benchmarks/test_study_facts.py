# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Texts that ask for what they said: every answer was said, as far back as its question says."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.study.facts import ASKS, NAMES, STATES, WORDS, build_recall, documents
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.errors import ElasticError

#: largest distance of each group of questions
LEVELS = (64, 128, 256, 512)


@pytest.mark.parametrize("length", [64, 512])
def test_every_answer_was_said_where_its_question_says(length: int) -> None:
    for text in islice(documents("val", length), 20):
        assert len(text.words) == length - 1
        said: dict[str, tuple[str, int]] = {}
        places = []
        for at in range(0, length - 3, 3):
            mark, name, value = text.words[at : at + 3]
            if mark == STATES:
                assert name not in said, "nothing is said twice"
                said[name] = value, at + 2
            else:
                assert mark == ASKS and value == said[name][0]
                places.append((at + 2, at + 2 - said[name][1]))
        assert text.questions == [p for p in places if p[0] < length - 1]


def test_near_and_far_are_asked_for() -> None:
    asked = Counter(
        next(level for level in LEVELS if distance <= level)
        for text in islice(documents("val", 512), 50) for _, distance in text.questions
    )  # fmt: skip
    assert all(asked[level] > 150 for level in LEVELS), asked


def test_splits_differ_and_stay(tmp_path: Path) -> None:
    counts = {"train": (4, 64), "train_long": (3, 512), "val": (2, 512)}
    folder = build_recall(tmp_path / "data", counts)
    again = build_recall(tmp_path / "again", counts)
    assert folder.digest == again.digest and DataFolder.open(tmp_path / "data").vocab_size == len(WORDS) + 2
    rows = folder.tokens("val").reshape(-1, 512)
    words = [folder.tokenizer().id_to_token(int(i)) for i in rows[0]]
    assert words == [*next(documents("val", 512)).words, "<eos>"]
    assert rows.tolist() != folder.tokens("train_long").reshape(-1, 512)[:2].tolist()
    assert set(words[:-1]) <= set(WORDS[: 2 + NAMES])
    with pytest.raises(ElasticError, match="already exists"):
        build_recall(tmp_path / "data", counts)
