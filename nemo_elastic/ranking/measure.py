# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`rank`: batches through a model once for the widths, and over again for the depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.family import Parent
from nemo_elastic.ranking.depth import by_score, iterative_mse
from nemo_elastic.ranking.orders import make_orders
from nemo_elastic.ranking.ranking import Ranking
from nemo_elastic.ranking.scores import Forward, RankOptions, Reduce, Statistics


def rank(
    forward: Forward,
    parent: Parent,
    batches: Iterable[torch.Tensor],
    options: RankOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    reduce: Reduce | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Ranking:
    """Rank every axis of a model by forward passes only (method §3).

    Args:
        forward: forward(tokens_bl, choice, probe) -> logits_blv; probed activations are whole, (batch, length, ...).
        parent: shape of the model.
        batches: tokens [b, l] each. Consumed once; the first `options.depth_samples` sequences are kept for the depth.
        options: how importance is measured.
        progress: called with (phase, done, total): phase "widths" (total 0: not known) and "depth".
        reduce: sum of a tensor over the ranks that see other samples; all ranks must call `rank` alike and then get
            the same ranking.
        provenance: JSON values kept with the ranking (which data, which parent, how many samples).

    Returns:
        The ranking; it does not depend on `parent.ffn_stripes`.

    Raises:
        ElasticError: no batch, or activations or logits that are not finite.
    """
    options = options or RankOptions()
    statistics = Statistics(parent, options)
    kept: list[torch.Tensor] = []
    wanted = options.depth_samples if options.depth == "mse" else 0
    samples = tokens = 0
    device: torch.device | None = None
    with torch.no_grad():
        for done, tokens_bl in enumerate(batches, 1):
            device = forward(tokens_bl, None, statistics).device
            samples, tokens = samples + len(tokens_bl), tokens + tokens_bl.numel()
            if wanted > 0:
                kept.append(tokens_bl[:wanted])
                wanted -= len(kept[-1])
            if progress is not None:
                progress("widths", done, 0)
    if not samples:
        raise ElasticError("ranking: no data; give at least one batch")
    scores = statistics.reduce(reduce, device).scores()
    if options.depth == "cosine":
        depth, depth_scores = by_score(scores["depth"])
    else:
        tell = None if progress is None else (lambda done, total: progress("depth", done, total))
        depth, depth_scores = iterative_mse(forward, parent, kept, options.depth_exact, tell, reduce)
    seen = {"samples": samples, "tokens": tokens}
    orders = make_orders(parent, scores)
    return Ranking(parent, orders, scores, depth, depth_scores, options, {**seen, **(provenance or {})})
