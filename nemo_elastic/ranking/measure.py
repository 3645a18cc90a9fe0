# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`rank`: batches through a model once for the widths, and some of them over again for the depth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.family import Parent
from nemo_elastic.ranking.depth import Depth, Drops, Order, by_score, iterative_mse
from nemo_elastic.ranking.layered import Layered, through
from nemo_elastic.ranking.orders import make_orders
from nemo_elastic.ranking.ranking import Ranking
from nemo_elastic.ranking.scores import RankOptions, Reduce, Statistics
from nemo_elastic.ranking.unfinished import Measured, OtherRanking, Unfinished

#: the depth's samples are split into so many pieces, for after each one layers are given up
PIECES = 8
#: but short ones are slow: tokens that a piece has at least
LEAST_TOKENS = 2048

Progress = Callable[[str, int, int], None]


def rank(
    model: Layered,
    parent: Parent,
    batches: Iterable[torch.Tensor],
    options: RankOptions | None = None,
    progress: Progress | None = None,
    reduce: Reduce | None = None,
    provenance: Mapping[str, Any] | None = None,
    unfinished: Unfinished | None = None,
) -> Ranking:
    """Rank every axis of a model by forward passes only (method §3).

    Memory does not grow with the number of batches: they are looked at one by one, and of their tokens the first
    `options.depth_samples` sequences are kept.

    Args:
        model: the model, layer by layer.
        parent: its shape.
        batches: tokens [b, l] each. Consumed once.
        options: how importance is measured.
        progress: called with (phase, done, total): phase "widths" (total 0: not known) and "depth".
        reduce: sum of a tensor over the ranks that see other samples; all ranks must call `rank` alike, with as many
            samples in batches of the same size, and then get the same ranking.
        provenance: JSON values kept with the ranking (which data, which parent, how many samples).
        unfinished: where to write down from time to time what is measured, and to go on from. It stays there when the
            ranking is done.

    Returns:
        The ranking; it does not depend on `parent.ffn_stripes`.

    Raises:
        ElasticError: no batch, or activations or logits that are not finite.
        OtherRanking: what is written down belongs to another ranking.
    """
    options = options or RankOptions()
    measuring = _Measuring(model, parent, options, reduce, unfinished)
    with torch.no_grad():
        measuring.look(batches, progress)
        scores = measuring.scores()
        if measuring.depth is None:
            depth, depth_scores = by_score(scores["depth"])
        else:
            depth, depth_scores = measuring.order(measuring.depth, progress)
    seen = {"samples": measuring.samples, "tokens": measuring.tokens}
    orders = make_orders(parent, scores)
    return Ranking(parent, orders, scores, depth, depth_scores, options, {**seen, **(provenance or {})})


class _Measuring:
    """One call of `rank`."""

    def __init__(
        self,
        model: Layered,
        parent: Parent,
        options: RankOptions,
        reduce: Reduce | None,
        unfinished: Unfinished | None,
    ) -> None:
        self.model, self.parent, self.options, self.reduce, self.unfinished = (
            model,
            parent,
            options,
            reduce,
            unfinished,
        )
        self.statistics = Statistics(parent, options)
        self.depth = Depth(model, parent.num_layers, reduce) if options.depth == "mse" else None
        self.samples = self.tokens = 0
        self.device = torch.device("cpu")
        self.known = Measured()
        found = unfinished.load(parent, options) if unfinished is not None else None
        if found is not None:
            self.known = found
            self.statistics.restore(found.sums, found.samples)

    def look(self, batches: Iterable[torch.Tensor], progress: Progress | None) -> None:
        """Every batch through the model, but for those that went through it before the ranking was killed."""
        before, digest, done = self.known, hashlib.sha256(), 0
        for done, tokens_bl in enumerate(batches, 1):
            digest.update(str(tuple(tokens_bl.shape)).encode() + tokens_bl.cpu().numpy().tobytes())
            again = done <= before.batches
            changed = done == before.batches and digest.hexdigest() != before.data
            if changed or (before.complete and not again):
                raise self._other_data()
            self._batch(tokens_bl, again)
            if again:
                continue
            if progress is not None:
                progress("widths", done, 0)
            if self.unfinished is not None and self.unfinished.due:
                self._save(Measured(done, digest.hexdigest(), False, *self.statistics.snapshot()))
        if done < before.batches:
            raise self._other_data()
        if not self.samples:
            raise ElasticError("ranking: no data; give at least one batch")
        # sums of this rank alone: a run that goes on adds them up over the ranks anew
        self.known = Measured(done, digest.hexdigest(), True, *self.statistics.snapshot(), before.drops)

    def _batch(self, tokens_bl: torch.Tensor, again: bool) -> None:
        """One batch: what the depth needs of it in pieces, the rest as it is."""
        wanted = max(0, self.options.depth_samples - self.samples) if self.depth is not None else 0
        front, rest = tokens_bl[:wanted].clone(), tokens_bl[wanted:]  # a view would keep the rest alive
        size = max(-(-self.options.depth_samples // PIECES), -(-LEAST_TOKENS // tokens_bl.shape[1]))
        for piece in front.split(size) if len(front) else ():
            assert self.depth is not None
            self.depth.add(piece, None if again else self._widths(piece))
        if len(rest) and not again:
            self._widths(rest)
        self.samples, self.tokens = self.samples + len(tokens_bl), self.tokens + tokens_bl.numel()
        self.device = tokens_bl.device

    def _widths(self, tokens_bl: torch.Tensor) -> torch.Tensor:
        layers = range(self.parent.num_layers)
        return through(self.model, layers, self.model.embed(tokens_bl), self.statistics)

    def scores(self) -> dict[str, np.ndarray]:
        """Of all widths, over all ranks."""
        return self.statistics.reduce(self.reduce, self.device).scores()

    def order(self, depth: Depth, progress: Progress | None) -> Order:
        """Of the layers."""

        def tell(drops: Drops, total: int) -> None:
            if progress is not None:
                progress("depth", len(drops.layers), total)
            if self.unfinished is not None and self.unfinished.due:
                self._save(replace(self.known, drops=drops))

        return iterative_mse(depth, self.options.depth_exact, self._agreed(self.known.drops), tell)

    def _agreed(self, drops: Drops) -> Drops:
        """The rounds that every rank knows: each writes down its own at its own time."""
        if self.reduce is None or self.unfinished is None:
            return drops
        ranks = torch.zeros(self.parent.num_layers, dtype=torch.float64, device=self.device)
        ranks[len(drops.layers)] = 1
        least = int(self.reduce(ranks).nonzero()[0])
        return drops if least == len(drops.layers) else Drops(drops.layers[:least], drops.scores[:least])

    def _save(self, measured: Measured) -> None:
        assert self.unfinished is not None
        self.unfinished.save(self.parent, self.options, measured)

    def _other_data(self) -> OtherRanking:
        assert self.unfinished is not None
        return self.unfinished.other("data")
