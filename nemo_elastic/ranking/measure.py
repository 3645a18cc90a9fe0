# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`rank`: batches through a model once for the widths, and some of them over again for the depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking.depth import Depth, by_score, iterative_mse
from nemo_elastic.ranking.ranking import Ranking, RankOptions, make_orders
from nemo_elastic.ranking.scores import Layered, Reduce, Shards, Statistics, entered, through

#: the depth's samples are split into so many pieces, for after each one layers are given up
PIECES = 8
#: but short ones are slow: tokens that a piece has at least
LEAST_TOKENS = 2048

Progress = Callable[[str, int, int], None]


def rank(
    model: Layered,
    parent: Parent,
    batches: Iterable[Rows | torch.Tensor],
    options: RankOptions | None = None,
    progress: Progress | None = None,
    reduce: Reduce | None = None,
    provenance: Mapping[str, Any] | None = None,
    shards: Shards | None = None,
) -> Ranking:
    """Rank every axis of a model by forward passes only (method §3).

    Memory does not grow with the number of batches: they are looked at one by one, and of their tokens the first
    `options.depth_samples` sequences are kept.

    Args:
        model: the model, layer by layer.
        parent: its shape.
        batches: rows of tokens, each token of which counts by its weight; or tokens [b, l], which all count alike.
            Consumed once.
        options: how importance is measured; None: `RankOptions.of`.
        progress: called with (phase, done, total): phase "widths" (total 0: not known) and "depth".
        reduce: sum of a tensor over the ranks that see other samples, the same bits on all ranks of the run; all ranks
            must call `rank` alike, with as many samples in batches of the same size, and then get the same ranking.
        provenance: JSON values kept with the ranking (which data, which parent, how many samples).
        shards: the ranks that hold the model together; they see the same samples.

    Returns:
        The ranking; it does not depend on `parent.ffn_stripes`.

    Raises:
        ElasticError: no batch, or activations or logits that are not finite.
    """
    options = options or RankOptions.of(None, parent)
    measuring = _Measuring(model, parent, options, reduce, shards)
    with torch.no_grad():
        measuring.look(batches, progress)
        scores, basis = measuring.scores()
        if measuring.depth is None:
            depth, depth_scores = by_score(scores["depth"])
        else:
            depth, depth_scores = iterative_mse(measuring.depth, options.depth_exact, _rounds(progress))
    orders = make_orders(parent, scores)
    seen = {**measuring.seen(), **(provenance or {})}
    return Ranking(parent, orders, scores, depth, depth_scores, options, seen, basis)


class _Measuring:
    """One call of `rank`."""

    def __init__(
        self,
        model: Layered,
        parent: Parent,
        options: RankOptions,
        reduce: Reduce | None,
        shards: Shards | None,
    ) -> None:
        self.model, self.parent, self.options = model, parent, options
        self.reduce = reduce
        self.statistics = Statistics(parent, options, shards)
        over_logits = _in_turn(shards.logits if shards is not None else None, reduce)
        self.depth = Depth(model, parent.num_layers, over_logits, shards) if options.depth == "mse" else None
        self.samples = self.tokens = self.counted = self.depth_samples = self.length = 0
        self.device = torch.device("cpu")

    def look(self, batches: Iterable[Rows | torch.Tensor], progress: Progress | None) -> None:
        """Every batch through the model."""
        for done, batch in enumerate(batches, 1):
            rows = Rows.of(batch)
            if done == 1:
                self._start(rows)
            self._batch(rows)
            if progress is not None:
                progress("widths", done, 0)
        if not self.samples:
            raise ElasticError("ranking: no data; give at least one batch")

    def _start(self, first: Rows) -> None:
        """This rank's share of the samples that the depth is measured on, and about how long they are on all ranks."""
        self.device = first.ids_bl.device
        ranks, lengths = self._sum([1.0, float(first.ids_bl.shape[1])])
        self.length = int(lengths / ranks)
        self.depth_samples = -(-self.options.depth_samples // int(ranks))

    def _sum(self, values: list[float]) -> list[float]:
        """Over the ranks that see other samples."""
        if self.reduce is None:
            return values
        return self.reduce(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()

    def seen(self) -> dict[str, int]:
        """How many sequences and tokens all ranks have looked at, and where not all count, how many do."""
        seen = map(int, self._sum([self.samples, self.tokens, self.counted]))
        figures: dict[str, int] = dict(zip(("samples", "tokens", "counted"), seen, strict=True))
        if figures["counted"] == figures["tokens"]:
            del figures["counted"]
        return figures

    def _batch(self, rows: Rows) -> None:
        """One batch: what the depth needs of it in pieces, the rest as it is."""
        wanted = max(0, self.depth_samples - self.samples) if self.depth is not None else 0
        front, rest = rows[:wanted], rows[wanted:]
        size = max(-(-self.depth_samples // PIECES), -(-LEAST_TOKENS // self.length))
        for piece in front.split(size):
            assert self.depth is not None
            self.depth.add(piece, self._widths(piece))
        if len(rest):
            self._widths(rest)
        self.samples, self.tokens = self.samples + len(rows), self.tokens + rows.ids_bl.numel()
        self.counted += rows.counted

    def _widths(self, rows: Rows) -> torch.Tensor:
        self.statistics.weigh(rows.counts_bl)
        model, stream = entered(self.model, rows)
        return through(model, range(self.parent.num_layers), stream, self.statistics)

    def scores(self) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Of all widths, over all ranks; and the basis of the residual stream, where one is asked for."""
        statistics = self.statistics.reduce(self.reduce, self.device)
        scores = statistics.scores()
        if statistics.moments is None:
            return scores, None
        scores[HIDDEN], basis = statistics.basis()
        if self.reduce is not None:  # the same bits everywhere, whatever libraries each rank has
            (ranks,) = self._sum([1.0])
            basis = self.reduce(torch.from_numpy(basis / ranks).to(self.device)).cpu().numpy()
        return scores, basis.astype(np.float32)


def _rounds(progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress("depth", done, total)


def _in_turn(first: Reduce | None, then: Reduce | None) -> Reduce | None:
    """Both sums, one over what the other gave."""
    if first is None or then is None:
        return first or then
    return lambda t: then(first(t))
