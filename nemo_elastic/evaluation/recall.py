# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a model answers to the questions of `demo.facts`, by how far back the answer stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


def right_by_distance(
    model: Callable[[Any], Any],
    tokens_nl: np.ndarray,
    questions: Iterable[Sequence[tuple[int, int]]],
    levels: Sequence[int],
    batch: int = 16,
) -> list[tuple[int, int]]:
    """Count answers that are the most probable next token, each after the true tokens before it.

    Args:
        model: tokens int64 [b, l] -> logits [b, l, v].
        tokens_nl: documents, one in a row.
        questions: of each document: (place of the answer, tokens back to where it was said).
        levels: largest distance of each group, ascending; the last holds all.
        batch: documents per forward.

    Returns:
        (right, asked) of each level.
    """
    import torch

    from nemo_elastic.nn.generate import check_finite

    tokens = torch.as_tensor(np.asarray(tokens_nl, dtype=np.int64))
    counts = [[0, 0] for _ in levels]
    asked = iter(questions)
    for rows_bl in tokens.split(batch):
        with torch.no_grad():
            hits_bl = (check_finite(model(rows_bl[:, :-1])).argmax(-1) == rows_bl[:, 1:]).tolist()
        for hits, of_document in zip(hits_bl, asked, strict=False):
            for place, distance in of_document:
                count = counts[next(i for i, level in enumerate(levels) if distance <= level)]
                count[0] += hits[place - 1]
                count[1] += 1
    return [(right, total) for right, total in counts]
