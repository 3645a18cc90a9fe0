# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The router: budget -> probabilities over the choices of every axis (method §5).

One small MLP per free axis: one-hot budget -> Linear -> LeakyReLU(0.1) -> Linear -> logits. Parameters are plain
replicas, no tensor-parallel shards, and stay in fp32 inside a bf16 model. Noise depends on (seed, step, micro-batch,
axis) alone, so every rank samples the same and no generator is shared with anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.registry import DEPTH, HIDDEN
from nemo_elastic.errors import bad
from nemo_elastic.nn.gates import Gates, LayerGates
from nemo_elastic.search.projection import Projection, project_family
from nemo_elastic.search.space import Space

#: axis -> probabilities [slots, choices]: one row for the whole model, or one per layer of the axis' type
Probabilities = dict[str, torch.Tensor]
#: (step, micro-batch) that noise is sampled for; None: no noise, as always in evaluation
Noise = tuple[int, int] | None

_HALF = (torch.float16, torch.bfloat16)


@dataclass
class Routed:
    """A router's choice for one micro-batch.

    Attributes:
        gates: soft or hard gates, see `Router.gates`.
        probabilities: axis -> [slots, choices], under the noise that was asked for.
        choice: the member of the largest probabilities, under the same noise: what hard gates compute.
    """

    gates: Gates
    probabilities: Probabilities
    choice: Subnet


class Router(nn.Module):
    """Chooses a member for a budget.

    Args:
        space: members that it chooses from; free axes get a network, rigid ones have a single choice.
        budgets: all budgets, the parent first, as in `ElasticConfig.budgets`.
        config: sizes and schedules.
        seed: of the initial weights and of the noise; the same on all ranks.

    Raises:
        ElasticError: no member meets one of the budgets.
    """

    drop_order: torch.Tensor

    def __init__(
        self, space: Space, budgets: Sequence[Budget], config: RouterConfig | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        space.check_budgets(budgets)
        self._space, self.budgets, self.config, self.seed = space, tuple(budgets), config or RouterConfig(), seed
        self.axes = tuple(axis for axis in space.axes if space.positions(axis))
        self.prices = [space.price(b) for b in self.budgets]
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator) * self.config.init_std)

        for axis in self.axes:
            slots, choices = self._shape(axis)
            self.down[axis] = weight(len(budgets), self.config.hidden)
            self.up[axis] = weight(self.config.hidden, slots * choices)
        for axis in space.axes:
            mask = space.kept if axis == DEPTH else self._masks(axis)
            self.register_buffer(f"mask_{axis}", torch.from_numpy(mask).float(), persistent=False)
        # Saved, too: with another order the same probabilities would drop other layers.
        self.register_buffer("drop_order", torch.tensor(space.whole_drop_order, dtype=torch.int64))
        for i, price in enumerate(self.prices):
            for j, limit in enumerate(price.limits):
                self.register_buffer(f"base_{i}_{j}", torch.from_numpy(limit.base / limit.target), persistent=False)
                for name, table in limit.tables.items():
                    prices = torch.from_numpy(table / limit.target)
                    self.register_buffer(f"table_{i}_{j}_{name}", prices, persistent=False)

    @property
    def space(self) -> Space:
        """The space of members; it depends on `drop_order`, which a checkpoint stores.

        May be set, once a ranking is known: to a space that differs in its drop order only.
        """
        order = tuple(self.drop_order.tolist())
        if order != self._space.whole_drop_order:
            self._space = self._space.reordered(order)
            self._buffer("mask", DEPTH).copy_(torch.from_numpy(self._space.kept))
        return self._space

    @space.setter
    def space(self, space: Space) -> None:
        if (space.parent, space.slots) != (self._space.parent, self._space.slots):
            raise ValueError("a router's space may change its drop order only")
        self.drop_order.copy_(torch.tensor(space.whole_drop_order))

    def _buffer(self, *name: object) -> torch.Tensor:
        return self.get_buffer("_".join(map(str, name)))

    def _shape(self, axis: str) -> tuple[int, int]:
        return len(self._space.positions(axis)), len(self._space.choices[axis])

    def _masks(self, axis: str) -> np.ndarray:
        """What each choice keeps of an axis, [choices, size]."""
        prefix = self._space.parent.axis(axis)
        out = np.zeros((len(self._space.choices[axis]), prefix.size), dtype=bool)
        for i, width in enumerate(self._space.choices[axis]):
            out[i, prefix.grid(width).indices()] = True
        return out

    def _apply(self, fn: Any, recurse: bool = True) -> Router:
        """Move, but never down to half precision: a bf16 logit cannot tell two choices apart."""

        def keep_precision(t: torch.Tensor) -> torch.Tensor:
            new = fn(t)
            return t.to(new.device) if new.dtype in _HALF else new

        return super()._apply(keep_precision, recurse)

    # ------------------------------------------------------------------ budgets and schedules

    def index(self, budget: int | str) -> int:
        """Position of a budget given by name or position."""
        names = [b.name for b in self.budgets]
        if isinstance(budget, str):
            if budget not in names:
                raise bad("budget", budget, f"one of {', '.join(names)}")
            return names.index(budget)
        if not 0 <= budget < len(names):
            raise bad("budget", budget, f"a position from 0 to {len(names) - 1}, or one of {', '.join(names)}")
        return budget

    def schedule(self, progress: float) -> tuple[float, float]:
        """(tau, scale) at a fraction of stage 1: linear up to `freeze_at`, constant after it."""
        end = self.config.freeze_at
        u = min(1.0, max(0.0, progress) / end) if end > 0 else 1.0
        (t0, t1), (s0, s1) = self.config.tau, self.config.scale
        return t0 + (t1 - t0) * u, s0 + (s1 - s0) * u

    # ------------------------------------------------------------------ logits and probabilities

    def logits(self, budget: int | str) -> Probabilities:
        """axis -> logits [slots, choices], free axes only."""
        i = self.index(budget)
        out = {}
        for axis in self.axes:
            inner = nn.functional.leaky_relu(self.down[axis][i], 0.1)
            out[axis] = (inner @ self.up[axis]).view(self._shape(axis))
        return out

    def probabilities(
        self, budget: int | str, tau: float = 1.0, scale: float = 1.0, noise: Noise = None
    ) -> Probabilities:
        """softmax((logits x scale + g) / tau), g Gumbel noise.

        Args:
            budget: position or name.
            tau: temperature; scale: factor on the logits (`schedule`).
            noise: (step, micro-batch) to sample g for. Noise differs between budgets and axes and is the same on all
                ranks. None: none.

        Returns:
            axis -> [slots, choices]; rigid axes have the one probability 1.
        """
        like = self._like()
        out: Probabilities = {}
        logits = self.logits(budget)
        for number, axis in enumerate(self._space.axes):
            if axis not in logits:
                out[axis] = torch.ones(1, 1).to(like)
                continue
            z = logits[axis] * scale
            if noise is not None:
                z = z + self.gumbel((*noise, self.index(budget), number), z.shape).to(z)
            out[axis] = (z / tau).softmax(-1)
        return out

    def gumbel(self, key: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
        """Gumbel noise, float64 on the CPU: a function of seed and key (step, micro-batch, budget, axis) alone."""
        u = np.random.default_rng([self.seed, *key]).random(tuple(shape))
        return torch.from_numpy(-np.log(-np.log(np.clip(u, 1e-12, 1 - 1e-12))))

    # ------------------------------------------------------------------ gates, cost, choice

    def gates(
        self,
        budget: int | str,
        tau: float = 1.0,
        scale: float = 1.0,
        noise: Noise = None,
        hard: bool | None = None,
    ) -> Routed:
        """Gates of a masked forward: for every channel the probability that it is kept.

        Soft: sum of the probabilities of the choices that keep it; one on what all choices keep. Hard: the zeros and
        ones of the largest probabilities exactly, whatever multiplies them where, with the soft gates' gradient
        (straight-through): the forward value is the submodel's.

        Args:
            budget: position or name.
            tau: temperature; scale: factor on the logits.
            noise: (step, micro-batch), None for none.
            hard: overrides `config.gate`.

        Returns:
            Gates in the router's dtype; `budget_loss` reads the same probabilities.
        """
        pi = self.probabilities(budget, tau, scale, noise)
        picked = {axis: p.argmax(-1) for axis, p in pi.items()}
        choice = self._decode(picked)  # brings the depth mask up to date
        straight = self.config.gate == "hard" if hard is None else hard
        gate = {axis: self._gate(axis, p, picked[axis] if straight else None) for axis, p in pi.items()}
        layers = []
        for i, kind in enumerate(self._space.parent.types):
            gates = {axis: gate[axis][self._row(axis, i)] for axis in self._space.parent.kind(kind).widths}
            layers.append(LayerGates(gate[DEPTH][0, i], gates))
        return Routed(Gates(gate[HIDDEN][0], tuple(layers)), pi, choice)

    def _gate(self, axis: str, pi: torch.Tensor, picked: torch.Tensor | None) -> torch.Tensor:
        mask = self._buffer("mask", axis)
        # What all choices keep is one, not a sum of probabilities that rounds to 0.99999994.
        soft = torch.where(mask.all(dim=0), mask.new_ones(()), pi @ mask)
        if picked is None:
            return soft
        return mask[picked] + (soft - soft.detach())  # the bracket is exactly zero

    def _row(self, axis: str, layer: int) -> int:
        """Row of an axis' probabilities that concerns a layer of the parent."""
        return self._space.layers_of(axis).index(layer) if self._space.per_layer[axis] and axis in self.axes else 0

    def expected_cost(self, probabilities: Probabilities, budget: int | str) -> torch.Tensor:
        """Expected cost divided by its target, of each limit of the budget, by its price tables: float64 [limits]."""
        i, space = self.index(budget), self.space
        pi = {axis: p.double() for axis, p in probabilities.items()}
        hidden = pi[HIDDEN][0]
        keep = (pi[DEPTH] @ self._buffer("mask", DEPTH).double())[0]
        totals = []
        for j, limit in enumerate(self.prices[i].limits):
            total = hidden @ self._buffer("base", i, j).double()
            for name, layers in limit.layers.items():
                table = torch.einsum("h,h...->...", hidden, self._buffer("table", i, j, name).double())
                widths = [pi[axis] for axis in space.parent.kind(limit.kind(name)).widths]
                each = _mean(table, [p if len(p) == 1 else p[limit.rows[name].tolist()] for p in widths])
                total = total + (keep[layers.tolist()] * each).sum()
            totals.append(total)
        return torch.stack(totals)

    def budget_loss(self, routed: Routed | Probabilities, budget: int | str) -> torch.Tensor:
        """|C/C_target - 1| of the expected cost C.

        With several limits their losses are summed; a cost below its target is pulled up only while no
        other limit is exceeded.

        Args:
            routed: what `gates` returned, or bare probabilities.
            budget: position or name of the budget that the micro-batch trains; not the parent's, which always runs
                whole and is never routed.

        Returns:
            0-dim, in the router's dtype; `config.loss_weight` is not applied.
        """
        pi = routed.probabilities if isinstance(routed, Routed) else routed
        return limits_loss(self.expected_cost(pi, budget) - 1).to(self._like().dtype)

    @torch.no_grad()
    def choose(self, budget: int | str) -> Subnet:
        """The member of the largest logits, without noise: deterministic, not yet projected (see `family`).

        The parent's budget always gives the parent.
        """
        if self.budgets[self.index(budget)].is_parent:
            return self.space.full
        return self._decode({axis: z.argmax(-1) for axis, z in self.logits(budget).items()})

    def _decode(self, picked: Mapping[str, torch.Tensor]) -> Subnet:
        rows = {axis: p.tolist() for axis, p in picked.items()}
        return self.space.decode(tuple(i for axis in self.axes for i in rows[axis]))

    def family(self) -> dict[str, Projection]:
        """Freeze: every budget's choice, projected onto its budget and nested in the one before."""
        raw = {b.name: self.choose(b.name) for b in self.budgets}
        return project_family(self.space, raw, self.budgets)

    @staticmethod
    def entropy(probabilities: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean entropy of an axis' slots over that of a uniform choice: 0 decided, 1 undecided. Free axes only."""
        out = {}
        for axis, p in probabilities.items():
            p = p.detach()  # for logs: the logarithm's gradient at zero is not finite
            if p.shape[-1] > 1:
                out[axis] = -(torch.special.xlogy(p, p).sum(-1).mean() / np.log(p.shape[-1]))
        return out

    def _like(self) -> torch.Tensor:
        return self._buffer("mask", HIDDEN)


def _mean(table: torch.Tensor, probabilities: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean of a table [choices of each axis] under probabilities [slots, choices] of each: [slots], or [1]."""
    *first, last = probabilities
    if not first:
        return last @ table
    if len(last) == 1:
        return _mean(table @ last[0], first)
    # per layer: each slot has a row of every axis with as many rows
    each = table @ last.T
    rows = [[p if len(p) == 1 else p[i : i + 1] for p in first] for i in range(len(last))]
    return torch.cat([_mean(each[..., i], row) for i, row in enumerate(rows)])


def limits_loss(misses: torch.Tensor) -> torch.Tensor:
    """Budget loss of the relative misses of a budget's limits [limits], below zero where a cost is below its target.

    Their sum, without those below their targets while one is above; see `Router.budget_loss`.
    """
    return torch.where((misses > 0).any() & (misses < 0), 0.0, misses.abs()).sum()
