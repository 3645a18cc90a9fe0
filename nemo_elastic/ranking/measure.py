# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`rank`: batches through a model once for the widths, and some of them over again for the depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking.depth import Depth, by_score, iterative_mse
from nemo_elastic.ranking.ranking import Ranking, RankOptions, make_orders
from nemo_elastic.ranking.scores import Layered, Reduce, Shards, Statistics, through_together

#: the depth's samples are split into so many pieces, for after each one layers are given up
PIECES = 8
#: but short pieces are slow: minimum tokens of a piece
LEAST_TOKENS = 2048

Progress = Callable[[str, int, int], None]


def rank(
    model: Layered,
    parent: Parent,
    batches: Iterable[Rows | torch.Tensor],
    options: RankOptions = RankOptions(),
    progress: Progress | None = None,
    reduce: Reduce | None = None,
    provenance: Mapping[str, Any] | None = None,
    shards: Shards | None = None,
    together: int = 1,
    samples: int = 0,
) -> Ranking:
    """Rank every axis of a model by forward passes only (method §3).

    Memory does not grow with the number of batches: they are looked at `together` tokens at a time, and of their
    tokens the first `options.depth_samples` sequences are kept.

    Args:
        model: the model, layer by layer.
        parent: its shape.
        batches: rows of tokens with a weight per token, or tokens [b, l] of equal weight.
            Consumed once.
        options: how importance is measured.
        progress: called with (phase, done, total): phase "widths" in sequences (total 0: not known), and "depth".
        reduce: sum of a tensor over the ranks that see other samples, the same bits on all ranks of the run; all ranks
            must call `rank` alike, with as many samples in batches of the same size, and then get the same ranking.
        provenance: JSON values kept with the ranking (which data, which parent, how many samples).
        shards: the ranks that hold the model together; they see the same samples.
        together: tokens of batches, and of layers left out, that go through a layer before any enters the next: of a
            model whose layers are read from files, each is then read once for all of them.
        samples: sequences of `batches` of all ranks, for `progress`; 0 where they are not known.

    Returns:
        The ranking; it does not depend on `parent.ffn_stripes`.

    Raises:
        ElasticError: no batch, or activations or logits that are not finite.
    """
    measuring = _Measuring(model, parent, options, reduce, shards, together, samples)
    with torch.no_grad():
        measuring.add_batches(batches, progress)
        scores, basis = measuring.scores()
        if measuring.depth is None:
            depth, depth_scores = by_score(scores["depth"])
        else:
            depth, depth_scores = iterative_mse(measuring.depth, options.depth_exact, _rounds(progress))
    orders = make_orders(parent, scores)
    measured = {**measuring.counts(), **(provenance or {})}
    return Ranking(parent, orders, scores, depth, depth_scores, options, measured, basis)


class _Measuring:
    """State of one call of `rank`."""

    def __init__(
        self,
        model: Layered,
        parent: Parent,
        options: RankOptions,
        reduce: Reduce | None,
        shards: Shards | None,
        together: int,
        samples: int,
    ) -> None:
        self.model, self.parent, self.options = model, parent, options
        self.reduce, self.together = reduce, together
        self.statistics = Statistics(parent, options, shards)
        over_logits = _in_turn(shards.logits if shards is not None else None, reduce)
        measured = options.depth == "mse"
        self.depth = Depth(model, parent.num_layers, over_logits, shards, together) if measured else None
        self.samples = self.tokens = self.counted = self.depth_samples = self.length = 0
        self.told, self.share = 0, samples
        self.device = torch.device("cpu")

    def add_batches(self, batches: Iterable[Rows | torch.Tensor], progress: Progress | None) -> None:
        """Run every batch through the model and add its activations to the statistics."""
        waiting: list[tuple[Rows, bool]] = []
        for number, batch in enumerate(batches):
            rows = Rows.of(batch)
            if not number:
                self._start(rows)
            for part in self._parts(rows):
                waiting.append(part)
                if sum(part_rows.ids_bl.numel() for part_rows, _ in waiting) >= self.together:
                    self._widths(waiting, progress)
                    waiting = []
        if waiting:
            self._widths(waiting, progress)
        if not self.samples:
            raise ElasticError("ranking: no data; give at least one batch")

    def _start(self, first: Rows) -> None:
        """Set this rank's share of the depth samples and the mean sequence length over ranks."""
        self.device = first.ids_bl.device
        ranks, lengths = self._sum([1.0, float(first.ids_bl.shape[1])])
        self.length = int(lengths / ranks)
        self.depth_samples = -(-self.options.depth_samples // int(ranks))
        self.share = -(-self.share // int(ranks))

    def _sum(self, values: list[float]) -> list[float]:
        """Sum over data-parallel ranks."""
        if self.reduce is None:
            return values
        return self.reduce(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()

    def counts(self) -> dict[str, int]:
        """Numbers of sequences and tokens of all ranks; `counted` where some tokens are masked."""
        summed = map(int, self._sum([self.samples, self.tokens, self.counted]))
        figures: dict[str, int] = dict(zip(("samples", "tokens", "counted"), summed, strict=True))
        if figures["counted"] == figures["tokens"]:
            del figures["counted"]
        return figures

    def _parts(self, rows: Rows) -> Iterator[tuple[Rows, bool]]:
        """A batch in parts, and whether the depth needs them: those in pieces, the rest as it is."""
        wanted = max(0, self.depth_samples - self.samples) if self.depth is not None else 0
        self.samples, self.tokens = self.samples + len(rows), self.tokens + rows.ids_bl.numel()
        self.counted += rows.counted
        front, rest = rows[:wanted], rows[wanted:]
        size = max(-(-self.depth_samples // PIECES), -(-LEAST_TOKENS // self.length))
        yield from ((piece, True) for piece in front.split(size))
        if len(rest):
            yield rest, False

    def _widths(self, parts: Sequence[tuple[Rows, bool]], progress: Progress | None) -> None:
        """Some parts of batches through the model, together."""
        rows, layers = [part for part, _ in parts], self.parent.num_layers
        before, sequences = self.told, sum(map(len, rows))

        def done(number: int) -> None:
            told = before + sequences * number // layers
            if progress is not None and told > self.told:
                progress("widths", told, self.share)
            self.told = told

        normed = through_together(self.model, range(layers), rows, self.statistics, done)
        for (part, for_depth), each in zip(parts, normed, strict=True):
            if for_depth and self.depth is not None:
                self.depth.add(part, each)

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
