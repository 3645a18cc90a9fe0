# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Answers by distance: of a model that remembers only so far, exactly those are right that it can know."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from nemo_elastic.demo.facts import WORDS, documents
from nemo_elastic.evaluation.recall import right_by_distance

LEVELS = (8, 32, 128)
IDS = {word: i + 2 for i, word in enumerate(WORDS)}


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("reach", [0, 8, 32, 128])
def test_a_model_that_remembers_so_far_answers_so_far(reach: int, batch: int) -> None:
    texts = list(islice(documents("val", 128), 10))
    tokens = np.array([[*(IDS[w] for w in t.words), 1] for t in texts], dtype=np.uint16)

    def model(rows_bl: torch.Tensor) -> torch.Tensor:
        """The value that stood behind this name last, if it is no further back than `reach`."""
        logits = torch.zeros(*rows_bl.shape, 258)
        for row, out in zip(rows_bl.tolist(), logits):
            for at, name in enumerate(row):
                known = [i + 1 for i in range(at) if row[i - 1] == IDS["="] and row[i] == name and at - i <= reach]
                out[at, row[known[0]] if known else 0] = 1.0
        return logits

    found = right_by_distance(model, tokens, [t.questions for t in texts], LEVELS, batch)
    assert sum(asked for _, asked in found) == sum(len(t.questions) for t in texts)
    for (right, asked), level in zip(found, LEVELS):
        assert asked > 10 and right == (asked if level <= reach else 0)
