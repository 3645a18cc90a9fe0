# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The order of layers as its definition says it: every candidate of every round is run whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.ranking.depth import Order, squared_error


@torch.no_grad()
def naive_order(
    forward: Callable[[torch.Tensor, Subnet], torch.Tensor],
    parent: Parent,
    batches: Sequence[torch.Tensor],
    exact: int | None = None,
    again: bool = False,
) -> Order:
    """Layers from least to most important, and the score of each, as `ranking.depth.iterative_mse` gives them.

    Args:
        forward: tokens [b, l] and a member to logits [b, l, v].
        parent: its shape.
        batches: tokens [b, l] each.
        exact: rounds to measure; None: all.
        again: run the whole model in every round, though it does not change; else once, and its logits are held.
    """
    kept, order, scores = list(range(parent.num_layers)), [], []
    last: dict[int, float] = {}
    held = [] if again else [forward(tokens_bl, parent.full) for tokens_bl in batches]
    for _ in range(min(exact or parent.num_layers, parent.num_layers - 1)):
        sums, squares = dict.fromkeys(kept, 0.0), 0.0
        for i, tokens_bl in enumerate(batches):
            full_blv = forward(tokens_bl, parent.full) if again else held[i]
            squares += squared_error(full_blv)
            for j in kept:
                sums[j] += squared_error(forward(tokens_bl, parent.uniform([i for i in kept if i != j])), full_blv)
        last = {j: s / squares for j, s in sums.items()}
        least = min(kept, key=lambda j: (last[j], j))
        kept.remove(least)
        order.append(least)
        scores.append(last[least])
    rest = sorted(kept, key=lambda j: (last.get(j, 0.0), j))
    return (*order, *rest), (*scores, *([last[j] for j in rest] if len(rest) > 1 else [None]))


def naive_evaluations(layers: int, exact: int | None = None, again: bool = False) -> int:
    """Layers that `naive_order` runs for one batch."""
    rounds = min(exact or layers, layers - 1)
    return layers * (rounds if again else 1) + sum(kept * (kept - 1) for kept in range(layers, layers - rounds, -1))
