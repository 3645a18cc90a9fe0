# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ways to train all sizes of a family in one run, for the study of nesting: in plain torch, FLOPs counted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from torch.func import functional_call

from benchmarks.study.grounds import Ground, config_of, optimizer_of, prepared, rate
from benchmarks.study.problems import MicroBatch
from benchmarks.study.results import REPORTED, TUNED
from nemo_elastic.core.cost import flops_per_token
from nemo_elastic.core.family import Subnet
from nemo_elastic.nn.nemotron_h import NemotronH
from tests.train.torch_host import TorchHost

BUDGETS = {"full": None, "large": 0.85, "medium": 0.7, "small": 0.5}
SIZES = tuple(name for name in BUDGETS if name != "full")
#: rows of a micro-batch, and micro-batches of the ground's size of text held out
ROWS, HELD_OUT = 8, 6
#: the plain way
EVEN = "every size as often"
#: a weight's rate over the run's, by the smallest size that has it
OUTER = {"full": 2.0, "large": 2.0, "medium": 1.0, "small": 0.5}


@dataclass(frozen=True)
class Way:
    """How a family is trained.

    Attributes:
        whole: share of the micro-batches that train the whole model.
        sizes: how the rest is shared out: `even`, by what each size is still away from the parent (`gain`), from the
            small ones to the large ones over the run (`up`), or the reverse (`down`).
        rates: `one` for all; the rate of the step's `size`; of each weight that of the smallest size that has it
            (`blocks`), or one that is higher where fewer sizes have it (`outer`).
        together: every step trains all sizes on one micro-batch, under one forward of the teacher.
        rows: of a micro-batch.
        mentor: share of the loss that is the divergence from the next larger size, the parent's is the rest.
        norms: every size has norms of its own.
        norm_rate: of norms, over that of the other weights.
        level: a size's loss is divided by its running mean, so that gradients of all sizes are of one magnitude.
        tokens: of what each size alone has in all, for runs of fewer; None spends the FLOPs.
    """

    whole: float = 0.25
    sizes: str = "even"
    rates: str = "one"
    together: bool = False
    rows: int = ROWS
    mentor: float = 0.0
    norms: bool = False
    norm_rate: float = 1.0
    level: bool = False
    tokens: float | None = None


WAYS = {
    EVEN: Way(),
    "the whole model in a tenth": Way(whole=0.1),
    "the whole model in four of ten": Way(whole=0.4),
    "each step at the rate of its size": Way(rates="size"),
    "each weight at the rate of the smallest size that has it": Way(rates="blocks"),
    "each weight faster, the fewer sizes have it": Way(rates="outer"),
    "shares by the distance from the parent": Way(sizes="gain"),
    "from small to large": Way(sizes="up"),
    "from large to small": Way(sizes="down"),
    "all sizes on one micro-batch": Way(together=True),
    "all sizes on one micro-batch of a quarter": Way(together=True, rows=ROWS // 4),
    "half of the loss from the next larger size": Way(mentor=0.5),
    "losses over their running means": Way(level=True),
    "norms at 20 times the rate": Way(norm_rate=20.0),
    "norms of each size's own, at 20 times the rate": Way(norms=True, norm_rate=20.0),
    "such norms, and each weight faster, the fewer sizes have it": Way(norms=True, norm_rate=20.0, rates="outer"),
    "every size as often, 0.6 of the tokens": Way(tokens=0.6),
}


class Family:
    """Shapes of a seed, and the weights that all of its runs start from.

    Args:
        ground: what they are trained on.
        seed: of the data, the ranking and the search.
    """

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground, self.seed = ground, seed
        config = config_of(ground, BUDGETS, seed, shapes="search", search={"candidates": 64, "tokens": 1024})
        with tempfile.TemporaryDirectory() as out:
            host, shapes = prepared(ground, config, Path(out))
        self.members: dict[str, Subnet] = dict(zip(BUDGETS, shapes.get(), strict=True))
        self.start, self.length = host.model.state_dict(), host.seq_length
        parts = {part: islice(ground.batches(999, held_out=part), HELD_OUT) for part in (TUNED, REPORTED)}
        with torch.no_grad():
            self.held_out = {
                part: [(rows.tokens_bs, ground.parent(rows.tokens_bs).log_softmax(-1)) for rows in source]
                for part, source in parts.items()
            }

    def cost(self, name: str) -> float:
        """Forward FLOPs of a token."""
        return float(flops_per_token(self.ground.shape, self.members[name], self.length))


class Run:
    """A run of a way, or of one size alone.

    Args:
        family: whose members it trains.
        way: how.
        lr: peak rate.
        rates: of each size, where the way asks for them.
        only: the size that is trained alone.
    """

    def __init__(
        self, family: Family, way: Way, lr: float, rates: Mapping[str, float] | None = None, only: str | None = None
    ) -> None:
        self.family, self.way, self.lr, self.rates, self.only = family, way, lr, rates or {}, only
        ground = family.ground
        self.host = TorchHost(ground.shape, family.start, torch.zeros(1, family.length, dtype=torch.long), way.rows)
        self.host.frozen = ground.parent
        self.model: NemotronH = self.host.model
        self.own = {
            size: {n: p.detach().clone().requires_grad_() for n, p in self._norms().items()}
            for size in (SIZES if way.norms else ())
        }
        self.optimizer = optimizer_of(self.model)
        norms = [p for own in (self._norms(), *self.own.values()) for p in own.values()]
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if not any(p is norm for norm in norms)]
        self.optimizer.add_param_group({"params": norms, "weight_decay": 0.0, "times": way.norm_rate})
        self.scale: dict[str, torch.Tensor] = {}
        if way.rates in ("blocks", "outer"):
            ours = {size: self.rates.get(size, lr) / lr for size in BUDGETS}
            self.scale = self._by_smallest(OUTER if way.rates == "outer" else ours)
        self.random = np.random.default_rng([family.seed, 7])
        self.spent, self.tokens, self.steps = 0.0, 0, 0
        self.shares = {size: 1 / len(SIZES) for size in SIZES}
        self.usual: dict[str, float] = {}

    def train(self, flops: float, tokens: float | None = None) -> None:
        """Train until so many FLOPs are spent, or so many tokens read."""
        data = self._rows()
        while (done := self.tokens / tokens if tokens else self.spent / flops) < 1:
            if self.way.sizes == "gain" and self.steps % 20 == 0:
                self._look()
            sizes = self._sizes(done)
            self._step(next(data), sizes, rate(done))

    def apart(self, part: str) -> dict[str, float]:
        """Divergences from the parent on a part of the held-out text: `TUNED` or `REPORTED`."""
        return {size: self._apart(size, part) for size in ([self.only] if self.only else BUDGETS)}

    def logits(self, tokens: torch.Tensor, size: str) -> torch.Tensor:
        member = None if size == "full" else self.family.members[size]
        if size in self.own:
            return functional_call(self.model, self.own[size], (tokens, member))
        return self.model(tokens, member)

    def _norms(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if "norm" in name}

    def _rows(self) -> Iterator[MicroBatch]:
        for batch in self.family.ground.batches(300 + self.family.seed):
            for at in range(0, len(batch.tokens_bs), self.way.rows):
                yield MicroBatch(*(t[at : at + self.way.rows] for t in batch))

    def _sizes(self, done: float) -> list[str]:
        if self.only:
            return [self.only]
        whole = self.random.random() < (len(BUDGETS) * self.way.whole if self.way.together else self.way.whole)
        if self.way.together:
            return [*(["full"] if whole else []), *SIZES]
        if whole:
            return ["full"]
        shares = dict(self.shares)
        if self.way.sizes in ("up", "down"):
            at = done if self.way.sizes == "up" else 1 - done
            shares = {size: 1.5 - at + i * (2 * at - 1) / 2 for i, size in enumerate(reversed(SIZES))}
        weights = np.array([shares[size] for size in SIZES])
        return [str(self.random.choice(SIZES, p=weights / weights.sum()))]

    def _step(self, rows: MicroBatch, sizes: Sequence[str], pace: float) -> None:
        count = rows.tokens_bs.numel()
        with torch.no_grad():
            taught = self.host.frozen(rows.tokens_bs).log_softmax(-1)
        said: dict[str, torch.Tensor] = {}
        self.spent += count * self.family.cost("full")
        for size in sizes:
            logits = self.logits(rows.tokens_bs, size).log_softmax(-1)
            said[size] = logits.detach()
            loss, larger = self._kl(taught, logits), self._larger(size)
            if self.way.mentor and larger:
                if larger not in said:
                    with torch.no_grad():
                        said[larger] = self.logits(rows.tokens_bs, larger).log_softmax(-1)
                    self.spent += count * self.family.cost(larger)
                loss = (1 - self.way.mentor) * loss + self.way.mentor * self._kl(said[larger], logits)
            if self.way.level:
                loss = loss / self._usual(size, float(loss.detach()))
            (loss / len(sizes)).backward()
            self.spent += 3 * count * self.family.cost(size)
        self._update(sizes[0], pace)
        self.tokens, self.steps = self.tokens + count, self.steps + 1

    def _usual(self, size: str, loss: float) -> float:
        """The running mean of a size's losses, with this one, over that of all sizes."""
        self.usual[size] = 0.8 * self.usual.get(size, loss) + 0.2 * loss
        return self.usual[size] / mean(self.usual.values())

    def _update(self, size: str, pace: float) -> None:
        torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        peak = self.rates.get(size, self.lr) if self.way.rates == "size" else self.lr
        for group in self.optimizer.param_groups:
            group["lr"] = peak * pace * group.get("times", 1.0)
        before = {name: p.detach().clone() for name, p in self.model.named_parameters()} if self.scale else {}
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for name, scale in self.scale.items():
                weight = self.model.get_parameter(name)
                weight.copy_(before[name] + scale * (weight - before[name]))

    def _by_smallest(self, of_size: Mapping[str, float]) -> dict[str, torch.Tensor]:
        """Of each weight, what is given of the smallest size that has it."""
        tokens, out = torch.arange(self.family.ground.shape.vocab)[None], {}
        for size in BUDGETS:  # from the largest
            self.model.zero_grad()
            self.logits(tokens, size).square().sum().backward()
            for name, p in self.model.named_parameters():
                known = out.setdefault(name, torch.ones_like(p))
                if p.grad is not None:
                    known[p.grad != 0] = of_size[size]
        self.model.zero_grad()
        return out

    def _look(self) -> None:
        self.shares = {size: max(self._apart(size, TUNED, 1), 1e-4) for size in SIZES}
        count = self.family.held_out[TUNED][0][0].numel()
        self.spent += count * sum(self.family.cost(size) + self.family.cost("full") for size in SIZES)

    @torch.no_grad()
    def _apart(self, size: str, part: str, count: int = HELD_OUT) -> float:
        """From the parent, on the first micro-batches of a part that no training saw."""
        rows = self.family.held_out[part][:count]
        return mean(float(self._kl(taught, self.logits(tokens, size).log_softmax(-1))) for tokens, taught in rows)

    @staticmethod
    def _larger(size: str) -> str | None:
        at = SIZES.index(size) if size in SIZES else 0
        return SIZES[at - 1] if at else None

    @staticmethod
    def _kl(taught: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        return F.kl_div(said.flatten(0, 1), taught.flatten(0, 1), log_target=True, reduction="batchmean")
