# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The order in which layers go (method §3, depth).

Iterative: the layer whose absence changes the logits least goes, then all that are left are measured again, for layers
that look alike alone are often each other's replacement.

Without layer j the network is the same up to j. So one walk through the kept layers serves all candidates: each starts
from the stream that enters the layer it leaves out. And squares only add up: a candidate that on the first samples has
already cost more than another one on all of them is not the least important, and is left alone. Order and scores are
those of measuring every candidate whole, bit for bit, on models whose layers give the same bits for the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking.scores import Layered, Reduce, Shards, entered, through

#: rows of logits in fp32 at a time
CHUNK = 512
#: elements of the whole model's final streams that are kept between rounds; those beyond are computed anew
KEPT = 2**27

Order = tuple[tuple[int, ...], tuple[float | None, ...]]


@torch.no_grad()
def squared_error(
    a_blv: torch.Tensor, b_blv: torch.Tensor | None = None, weights_bl: torch.Tensor | None = None
) -> float:
    """Sum of weight x (a - b)^2 (of a^2 without b) in fp32 chunks, added up in float64."""
    a_tv = a_blv.flatten(0, -2)
    b_tv = b_blv.flatten(0, -2) if b_blv is not None else None
    total = torch.zeros((), dtype=torch.float64, device=a_tv.device)
    for i in range(0, len(a_tv), CHUNK):
        part = a_tv[i : i + CHUNK].float()
        if b_tv is not None:
            part = part - b_tv[i : i + CHUNK].float()
        if weights_bl is None:
            total += part.square().sum(dtype=torch.float64)
        else:
            total += part.square().sum(dim=-1, dtype=torch.float64) @ weights_bl.flatten()[i : i + CHUNK].double()
    return float(total)


class Depth:
    """s_j = sum (full - without j)^2 / sum full^2 over all logits of some samples, which are added piece by piece.

    Where tokens count for more or less, their logits do, too. Alive at a time: the tokens of all pieces, `KEPT`
    elements of final streams, and of one piece the walk's stream, those of some candidates, and two tensors of logits.
    None of it grows with the layers. `reduce` sums over ranks that see other samples or have other columns of logits:
    all ranks add as many pieces and ask for the same. `shards` are the ranks that hold the model together, None for
    one. `together`: tokens of candidates that go through a layer one after another, at least of one candidate.
    """

    def __init__(
        self,
        model: Layered,
        layers: int,
        reduce: Reduce | None = None,
        shards: Shards | None = None,
        together: int = 1,
    ) -> None:
        self.model, self.layers, self.reduce, self.shards = model, layers, reduce, shards
        self.together = together
        self.pieces: list[Rows] = []
        self._normed: dict[int, torch.Tensor] = {}
        self._squares: float | None = None

    def add(self, rows: Rows | torch.Tensor, normed: torch.Tensor | None = None) -> None:
        """Another piece, with what the whole model's final norm made of it where that is known."""
        self.pieces.append(Rows.of(rows))
        if normed is not None:
            self._keep(len(self.pieces) - 1, normed)

    @property
    def squares(self) -> float:
        """Sum of weight x logit^2 of the whole model over pieces and ranks; `ElasticError` unless finite and not 0."""
        if self._squares is None:
            each = (self._sum([squared_error(self._full(i), None, self._weights(i))]) for i in range(len(self.pieces)))
            self._squares = _checked_squares(sum(float(s) for (s,) in each))
        return self._squares

    @torch.no_grad()
    def errors(self, piece: int, kept: Sequence[int], without: Collection[int]) -> dict[int, float]:
        """Squared error on one piece of the `kept` layers without each of some of them."""
        if not without:
            return {}
        full, costs, weights_bl = self._full(piece), {}, self._weights(piece)
        model, stream = entered(self.model, self.pieces[piece])
        some = max(1, self.together // self.pieces[piece].ids_bl.numel())
        order, start = [j for j in kept if j in without], 0
        for at in range(0, len(order), some):
            now = order[at : at + some]
            streams: dict[int, Any] = {}
            for j in kept[start:]:
                for k in streams:
                    streams[k] = model.layer(j, streams[k])
                if j in now:
                    streams[j] = stream
                if j <= now[-1] and j != order[-1]:
                    stream = model.layer(j, stream)
            for k in now:
                costs[k] = squared_error(model.head(model.norm(streams.pop(k))), full, weights_bl)
            start = kept.index(now[-1]) + 1
        return dict(zip(costs, self._sum(list(costs.values())), strict=True))

    def scores(self, kept: Sequence[int]) -> dict[int, float]:
        """The score of every kept layer."""
        sums = dict.fromkeys(kept, 0.0)
        for i in range(len(self.pieces)):
            for j, error in self.errors(i, kept, kept).items():
                sums[j] += error
        return {j: s / self.squares for j, s in sums.items()}

    def least(self, kept: Sequence[int]) -> tuple[int, float]:
        """The layer of the smallest score (the first of those), and its score.

        The best of the first piece is measured whole, and sets the limit at which others are given up.
        """
        sums = self.errors(0, kept, kept)
        best = min(kept, key=lambda j: (sums[j], j))
        total = sums.pop(best)
        for i in range(1, len(self.pieces)):
            total += self.errors(i, kept, [best])[best]
        limit = total / self.squares
        for i in range(1, len(self.pieces)):
            alive = [j for j, s in sums.items() if s / self.squares <= limit]
            sums = {j: sums[j] + e for j, e in self.errors(i, kept, alive).items()}
        whole = {best: limit} | {j: s / self.squares for j, s in sums.items()}
        least = min(whole, key=lambda j: (whole[j], j))
        return least, whole[least]

    @torch.no_grad()
    def _full(self, piece: int) -> torch.Tensor:
        """The whole model's logits of a piece."""
        normed = self._normed.get(piece)
        if normed is None:
            model, stream = entered(self.model, self.pieces[piece])
            normed = through(model, range(self.layers), stream)
            self._keep(piece, normed)
        return self.model.head(normed)

    def _weights(self, piece: int) -> torch.Tensor | None:
        """Of the tokens whose logits this rank has."""
        weights_bl = self.pieces[piece].counts_bl
        return weights_bl if weights_bl is None or self.shards is None else self.shards.tokens(weights_bl)[0]

    def _keep(self, piece: int, normed: torch.Tensor) -> None:
        if sum(x.numel() for x in self._normed.values()) + normed.numel() <= KEPT:
            self._normed[piece] = normed

    def _sum(self, values: list[float]) -> list[float]:
        if self.reduce is not None:
            device = self.pieces[0].ids_bl.device
            values = self.reduce(torch.tensor(values, dtype=torch.float64, device=device)).tolist()
        if not np.isfinite(values).all():
            _checked_squares(float("nan"))  # raises
        return values


def iterative_mse(
    depth: Depth,
    exact: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Order:
    """Layers from least to most important by `Depth`'s score, and each one's score when it was dropped.

    After `exact` rounds, None for all, the layers left keep the order and the scores of the last round; the last
    layer, which cannot be dropped, has no score. Over N layers this is about N^3/6 runs of a layer a sample and less
    where candidates are given up, against N^3/3 where every candidate is run whole. `progress` is called after each
    round with the rounds so far and the number there will be.
    """
    rounds = depth.layers - 1 if exact is None else min(exact, depth.layers - 1)
    kept, dropped, scores = list(range(depth.layers)), [], []
    last: dict[int, float] = {}  # scores in the last round of the layers that are left by then
    for done in range(1, rounds + 1):
        if done == rounds:  # the remaining layers are ordered by the last round
            last = depth.scores(kept)
            least = min(kept, key=lambda j: (last[j], j))
            score = last.pop(least)
        else:
            least, score = depth.least(kept)
        kept.remove(least)
        dropped.append(least)
        scores.append(score)
        if progress is not None:
            progress(done, rounds)
    rest = sorted(kept, key=lambda j: (last.get(j, 0.0), j))
    left = [last.get(j) for j in rest] if len(rest) > 1 else [None]
    return (*dropped, *rest), (*scores, *left)


def by_score(scores: np.ndarray) -> Order:
    """Drop order and scores from one score per layer (1 - cosine), least important first."""
    order = np.argsort(scores, kind="stable")
    return tuple(int(j) for j in order), tuple(float(scores[j]) for j in order)


def _checked_squares(squares: float) -> float:
    """The parent's sum of squared logits, by which scores are divided: finite and above 0."""
    if not np.isfinite(squares) or not squares > 0:
        raise ElasticError(f"ranking: logits are not finite or all zero (squares: {squares}); is the parent whole?")
    return squares
