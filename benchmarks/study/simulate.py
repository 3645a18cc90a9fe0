# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Routers that learn from made-up losses, many at once: the router's own arithmetic with one more dimension.

R routers, M micro-batches, S rows (slots, and one row for a rigid axis), C choices (the most there are, padded), B
budgets. Samples, schedule, Adam, warm-up and clipping are those of a recipe's stage 1; there is no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.study.made_up import MadeUp
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.registry import AXES, DEPTH, HIDDEN, KINDS, layer_axes
from nemo_elastic.router import Router, budget_loss
from nemo_elastic.train.samples import BudgetSampler


@dataclass(frozen=True)
class Optimizer:
    """What a recipe's stage 1 trains its router with.

    Attributes:
        steps: of the whole stage.
        micro_batches: of one rank, per step.
        betas, eps: Adam's; clip: of the router's own gradient norm.
        warmup: steps in which the router's rate rises.
    """

    steps: int
    micro_batches: int
    betas: tuple[float, float]
    eps: float
    clip: float
    warmup: int

    @classmethod
    def of(cls, recipe: Any, optim: Any) -> Optimizer:
        """Of a stage's recipe and the optimizer that is built from it."""
        strategy, config = recipe.trainer.strategy, optim.config
        ranks = recipe.trainer.num_nodes * recipe.trainer.devices
        one = strategy.tensor_model_parallel_size * strategy.pipeline_model_parallel_size
        parallel = ranks // (one * strategy.context_parallel_size)
        return cls(
            recipe.trainer.max_steps,
            recipe.data.global_batch_size // parallel // recipe.data.micro_batch_size,
            (config.adam_beta1, config.adam_beta2),
            config.adam_eps,
            config.clip_grad,
            optim.lr_scheduler.rates.router_warmup,
        )


#: stage 1 of the recipes of large parents, as they are built; tests/benchmarks/test_recipes.py compares it. Ranks that
#: share sequences leave the 12B twice as many micro-batches, so less noise
LARGE = Optimizer(5170, 48, (0.9, 0.95), 1e-5, 1.0, 20)


class Routers(torch.nn.Module):
    """Copies of some routers over spaces that differ in their drop order only, each with a loss of its own.

    Args:
        routers: of one block; their weights are where the copies start.
        losses: one for each.
        noise: standard deviation of a micro-batch's gradient on a gate, over what a step of that axis typically loses.
        bend: a gate of g loses (1 - g)**bend of what its channels are worth: 1 makes a soft choice as good as the mean
            of the hard ones, 2 is how an error of the outputs enters a divergence.
    """

    def __init__(
        self, routers: Sequence[Router], losses: Sequence[MadeUp], noise: float = 0.0, bend: float = 1.0
    ) -> None:
        super().__init__()
        self.routers, self.losses, self.noise, self.bend = list(routers), list(losses), noise, bend
        first = self.routers[0]
        space = first.space
        self.axes = first.axes
        self.rows = {a: (space.positions(a) or (None,)) for a in AXES}
        self.at: dict[str, slice] = {}
        for axis in AXES:
            start = sum(len(self.rows[a]) for a in self.at)
            self.at[axis] = slice(start, start + len(self.rows[axis]))
        self.width = max(len(c) for c in space.choices.values())
        self.down = torch.nn.ParameterDict({a: _stack(r.down[a] for r in routers) for a in self.axes})
        self.up = torch.nn.ParameterDict({a: _stack(r.up[a] for r in routers) for a in self.axes})
        self.prior = {a: torch.stack([r.get_buffer(f"prior_{a}") for r in routers]) for a in self.axes}
        self.choices = {a: len(space.choices[a]) for a in AXES}
        valid = torch.zeros(len(self), self.width, dtype=torch.bool)
        for axis in AXES:
            valid[self.at[axis], : self.choices[axis]] = True
        self.outside = torch.zeros(valid.shape).masked_fill(~valid, -torch.inf)
        self.kept = torch.stack([torch.from_numpy(r.space.kept).float() for r in routers])  # [R, depths, L]
        self._price(first)
        self._lose(self.losses)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())

    def _price(self, router: Router) -> None:
        prices, space = [price.limits[0] for price in router.prices], router.space
        self.base = torch.stack([torch.from_numpy(p.base / p.target) for p in prices]).float()
        self.tables = {}
        for kind in prices[0].tables:
            widths = space.parent.kind(kind).widths
            rigid = tuple(1 + i for i, axis in enumerate(widths) if axis not in self.at)  # of one choice each
            tables = [torch.from_numpy(p.tables[kind].squeeze(rigid) / p.target) for p in prices]
            self.tables[kind] = torch.stack(tables).float()
        self.layers = {kind: [i for i, t in enumerate(space.parent.types) if t == kind] for kind in self.tables}

    def _lose(self, losses: Sequence[MadeUp]) -> None:
        """Tables of the losses [R, rows, C], and what noise each row's gradients have."""
        self.dropped = _stack(torch.from_numpy(m.dropped) for m in losses).data
        self.lost = {a: _stack(torch.from_numpy(m.lost[a]) for m in losses).data
                     for a in (HIDDEN, *layer_axes()) if len(losses[0].lost.get(a, ()))}  # fmt: skip
        self.deviation = torch.zeros(len(losses), len(self), 1)
        for axis in self.axes:
            for r, made in enumerate(losses):
                self.deviation[r, self.at[axis], 0] = self.noise * _typical(made, axis)

    # ------------------------------------------------------------------ as nemo_elastic.router, batched

    def logits(self) -> torch.Tensor:
        """[R, B, S, C], minus infinity where an axis has fewer choices."""
        runs, budgets = len(self.routers), len(self.base)
        out = []
        for axis in AXES:
            if axis not in self.down:
                z = self.outside.new_zeros(runs, budgets, len(self.rows[axis]), 1)
            else:
                inner = torch.nn.functional.leaky_relu(self.down[axis], 0.1)
                z = (inner @ self.up[axis]).view(runs, budgets, len(self.rows[axis]), -1) + self.prior[axis]
            out.append(torch.nn.functional.pad(z, (0, self.width - z.shape[-1])))
        return torch.cat(out, dim=2) + self.outside

    def expected_cost(self, pi: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
        """Expected cost over the target, [R, M]; pi [R, M, S, C]."""
        hidden = pi[:, :, self.at[HIDDEN].start, : self.choices[HIDDEN]]
        keep = self._keep(pi)
        total = (hidden * self.base[budgets]).sum(-1)
        for kind, tables in self.tables.items():
            first, *second = (axis for axis in KINDS[kind].widths if axis in self.at)
            table = torch.einsum("rmh,mh...->rm...", hidden, tables[budgets])
            if second:
                table = (table @ self._of(pi, second[0]).transpose(-1, -2))[..., 0]
            each = (self._of(pi, first) @ table[..., None])[..., 0]
            total = total + (keep[..., self.layers[kind]] * each).sum(-1)
        return total

    def loss(self, pi: torch.Tensor) -> torch.Tensor:
        """Made-up loss under soft gates, [R, M]: exact at one-hot pi."""
        keep = self._keep(pi)
        total = ((1 - keep).clamp(min=0) ** self.bend * self.dropped[:, None]).sum(-1)
        for axis, steps in self.lost.items():
            # what is gated out of the channels between a choice and the next smaller one
            gone = (1 - self._of(pi, axis).cumsum(-1)[..., :-1]).clamp(min=0) ** self.bend
            each = (gone * steps[:, None]).sum(-1)  # one row for all layers, or one each
            kept = 1.0 if axis == HIDDEN else keep[..., self.layers[layer_axes()[axis][0].name]]
            total = total + (kept * each).sum(-1)
        return total

    def _of(self, pi: torch.Tensor, axis: str) -> torch.Tensor:
        return pi[:, :, self.at[axis], : self.choices[axis]]

    def _keep(self, pi: torch.Tensor) -> torch.Tensor:
        return self._of(pi, DEPTH)[:, :, 0] @ self.kept

    # ------------------------------------------------------------------ training

    def micro_batches(
        self, budgets: torch.Tensor, tau: float, scale: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss without the budget's, and expected cost, of some micro-batches: both [R, M]."""
        z = self.logits()[:, budgets] * scale
        gumbel = -torch.empty(z.shape).exponential_(generator=generator).log()
        pi = ((z + gumbel) / tau).softmax(-1)
        loss = self.loss(pi)
        if self.noise:  # every gate of a row has its own
            steps = torch.randn(z.shape, generator=generator).cumsum(-1)
            loss = loss + (pi * steps * self.deviation[:, None]).sum((-1, -2))
        return loss, self.expected_cost(pi, budgets)

    def clip(self, limit: float) -> torch.Tensor:
        """Every router by its own norm; returns the norms [R]."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
        factor = (limit / (norms + 1e-6)).clamp(max=1.0)
        for g in grads:
            g *= factor.view(-1, 1, 1)
        return norms

    @torch.no_grad()
    def codes(self) -> np.ndarray:
        """Choices of the largest logits, [R, B, slots]."""
        picked = self.logits().argmax(-1)
        rows = [row for a in self.axes for row in range(self.at[a].start, self.at[a].stop)]
        return picked[:, :, rows].numpy().astype(np.int8)

    @torch.no_grad()
    def openness(self, scale: float) -> torch.Tensor:
        """Entropy of what is sampled, over that of a uniform sample, [R, B, S]: argmax(z x scale + g) is a sample from
        softmax(z x scale), whatever the temperature. Rigid rows are zero.
        """
        p = (self.logits() * scale).softmax(-1)
        most = torch.tensor([np.log(max(2, self.choices[a])) for a in AXES for _ in self.rows[a]])
        return -torch.special.xlogy(p, p).sum(-1) / most

    @torch.no_grad()
    def families(self) -> list[dict[str, Subnet]]:
        """What each router would freeze to: projected members."""
        for r, router in enumerate(self.routers):
            for axis in self.axes:
                router.down[axis].copy_(self.down[axis][r])
                router.up[axis].copy_(self.up[axis][r])
        return [{n: p.member for n, p in router.family().items()} for router in self.routers]


def _stack(each: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.stack([t.detach().float() for t in each]))


def _typical(made: MadeUp, axis: str) -> float:
    """Root mean square of what one step on an axis loses, over its slots."""
    if axis == DEPTH:
        layers = made.space.kept.astype(float) @ made.dropped
        return float(np.sqrt(np.mean(np.diff(layers) ** 2)))
    lost = made.lost[axis]
    alone = lost if made.space.per_layer[axis] else lost.sum(axis=0, keepdims=True)
    return float(np.sqrt(np.mean(alone**2)))


def samples(config: ElasticConfig, optimizer: Optimizer, steps: int) -> list[list[int]]:
    """Budgets of the micro-batches of each step that run under masks; the parent's never do."""
    assert config.router is not None
    sampler, share = (
        BudgetSampler(config.weights(), config.seed, 1, config.budgets_per_batch),
        config.router.soft_share,
    )
    return [
        [b for m in range(optimizer.micro_batches) if share >= 1 or sampler.soft(step, m, share)
         for b in sampler.samples(step, m) if b]
        for step in range(steps)
    ]  # fmt: skip


def train(
    routers: Routers,
    config: ElasticConfig,
    optimizer: Optimizer,
    seed: int,
    look: Callable[[int, Mapping[str, Any]], None],
) -> int:
    """Train up to the freeze; `look(step, figures)` sees every step before it changes anything.

    Returns:
        The number of steps.
    """
    assert config.router is not None
    settings, end = config.router, config.router.freeze_step(optimizer.steps)
    adam = torch.optim.Adam(routers.parameters(), lr=settings.lr, betas=optimizer.betas, eps=optimizer.eps, fused=True)
    generator = torch.Generator().manual_seed(seed)
    for step, sampled in enumerate(samples(config, optimizer, end)):
        tau, scale = routers.routers[0].schedule(step / optimizer.steps)
        adam.zero_grad(set_to_none=False)
        figures: dict[str, Any] = {"tau": tau, "scale": scale}
        if sampled:
            budgets = torch.tensor(sampled)
            loss, cost = routers.micro_batches(budgets, tau, scale, generator)
            (
                (loss + settings.loss_weight * budget_loss(cost - 1, settings)).sum() / optimizer.micro_batches
            ).backward()
            figures |= {"cost": cost.detach(), "norm": routers.clip(optimizer.clip)}
        look(step, figures)
        for group in adam.param_groups:
            group["lr"] = settings.lr * min(1.0, (step + 1) / max(1, optimizer.warmup))
        adam.step()
    return end
