# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The order in which layers go (method §3, depth).

Iterative: the layer whose absence changes the logits least goes, then all that are left are measured again, for layers
that look alike alone are often each other's replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.family import Parent, Subnet
from nemo_elastic.ranking.scores import Forward, Reduce

#: rows of logits held in fp32 at a time
CHUNK = 512


@torch.no_grad()
def squared_error(a_blv: torch.Tensor, b_blv: torch.Tensor | None = None) -> float:
    """Sum of (a - b)^2 (of a^2 without b) in fp32 chunks, added up in float64."""
    a_tv = a_blv.flatten(0, -2)
    b_tv = b_blv.flatten(0, -2) if b_blv is not None else None
    total = torch.zeros((), dtype=torch.float64, device=a_tv.device)
    for i in range(0, len(a_tv), CHUNK):
        part = a_tv[i : i + CHUNK].float()
        if b_tv is not None:
            part = part - b_tv[i : i + CHUNK].float()
        total += part.square().sum(dtype=torch.float64)
    return float(total)


def iterative_mse(
    forward: Forward,
    parent: Parent,
    batches: Sequence[torch.Tensor],
    exact: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    reduce: Reduce | None = None,
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """Layers from least to most important by s_j = sum (full - without j)^2 / sum full^2 over all logits.

    Every candidate runs as the submodel itself, so later rounds are cheaper. At most two tensors of logits of one
    batch are alive; the whole model's are computed once a batch and round. About N^2/2 forward passes a batch.

    Args:
        forward: the model.
        parent: its shape.
        batches: tokens [b, l] each; the same ones serve all rounds.
        exact: rounds that are measured; the layers left then keep the order of the last round. None: all.
        progress: called with (drops known, drops in all).
        reduce: sums numerators and denominators over ranks that see other samples (or hold other columns of logits).

    Returns:
        Layer indices, and each one's score when it was dropped: None for the last layer, which cannot be dropped, and
        for layers that were ordered without a round of their own their score of the last round.

    Raises:
        ElasticError: logits are not finite or all zero.
    """
    n = parent.num_layers
    rounds = n - 1 if exact is None else min(exact, n - 1)
    kept, dropped, scores = list(range(n)), [], []
    last: dict[int, float] = {}
    for done in range(rounds):
        last = _round(forward, parent, kept, batches, reduce)
        least = min(kept, key=lambda j: (last[j], j))
        kept.remove(least)
        dropped.append(least)
        scores.append(last[least])
        if progress is not None:
            progress(done + 1, rounds)
    rest = sorted(kept, key=lambda j: (last.get(j, 0.0), j))
    rest_scores = [last.get(j) for j in rest] if len(rest) > 1 else [None]
    return tuple(dropped + rest), tuple(scores + rest_scores)


@torch.no_grad()
def _round(
    forward: Forward, parent: Parent, kept: list[int], batches: Sequence[torch.Tensor], reduce: Reduce | None
) -> dict[int, float]:
    sums = np.zeros(len(kept) + 1)
    members: list[Subnet] = [parent.uniform([i for i in kept if i != j]) for j in kept]
    device = None
    for tokens_bl in batches:
        full_blv = forward(tokens_bl, None, None)
        device = full_blv.device
        sums[-1] += squared_error(full_blv)
        for k, member in enumerate(members):
            sums[k] += squared_error(forward(tokens_bl, member, None), full_blv)
    if reduce is not None:
        sums = reduce(torch.from_numpy(sums).to(device)).cpu().numpy()
    if not np.isfinite(sums).all() or not sums[-1] > 0:
        raise ElasticError(f"ranking: logits are not finite or all zero (squares: {sums[-1]}); is the parent whole?")
    return {j: float(s / sums[-1]) for j, s in zip(kept, sums, strict=False)}


def by_score(scores: np.ndarray) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """The fast option: one score per layer (1 - cosine), least important first."""
    found = np.argsort(scores, kind="stable")
    return tuple(int(j) for j in found), tuple(float(scores[j]) for j in found)
