# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family trained on the host of plain torch: ranked, shaped as its block says, frozen, trained on slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.train.members import Members
from nemo_elastic.train.shaping import prepare_members, shape_members
from nemo_elastic.train.training import FamilyTraining
from tests.train.torch_host import TorchHost


def random_rows(vocab: int, steps: int, length: int) -> torch.Tensor:
    """Two rows for each step, each with the token behind its last."""
    return torch.randint(0, vocab, (2 * steps, length + 1), generator=torch.Generator().manual_seed(0))


@dataclass
class Trained:
    """A stage of a training: `prepare` ranks and searches, `go` takes its steps.

    Attributes:
        shape: the parent's, with the block's stripes.
        out: folder for what ranking and search write.
        rows: see `random_rows`.
        choices: what micro-batches ran.
        before: weights of the sorted parent.
    """

    config: ElasticConfig
    shape: Parent
    out: Path
    rows: torch.Tensor
    steps: int
    stage: int = 1
    lr: float = 1e-3

    def __post_init__(self) -> None:
        config, shape = self.config, self.shape
        self.host = TorchHost(shape, NemotronH.random(shape, seed=1).state_dict(), self.rows[:, :-1], 2)
        self.family = FamilyTraining(config, self.stage, self.steps)
        self.family.members = Members(shape, len(config.budgets), self.family.new_router(shape))
        parameters = [*self.host.model.parameters(), *self.family.members.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=self.lr)
        self.choices: list[object] = []

    def prepare(self) -> Trained:
        prepare_members(self.family, self.host, self.out)
        self.before = {name: value.clone() for name, value in self.host.model.state_dict().items()}
        return self

    def go(self, until: int | None = None) -> Trained:
        family, host = self.family, self.host
        while host.step < (self.steps if until is None else until):
            shape_members(family, host, self.out)
            rows, mask = self.rows[2 * host.step : 2 * host.step + 2], torch.ones(2, host.seq_length)
            for _ in range(host.micro_batches):
                sample = family.next_sample(host)
                self.choices.append(sample.choice)
                loss, _ = family.loss(host, sample, rows[:, :-1], rows[:, 1:], mask)
                (loss * host.gradient_scale(mask.sum())).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            host.step += 1
        if host.step == self.steps:
            shape_members(family, host, self.out)
        return self

    @property
    def members(self) -> dict[str, Subnet]:
        """By name."""
        names = [budget.name for budget in self.config.budgets]
        return dict(zip(names, self.family.members.get(), strict=True))

    @property
    def parent(self) -> Parent:
        return self.host.model.parent


def train_family(config: ElasticConfig, shape: Parent, out: Path) -> Trained:
    """Twelve steps on random tokens."""
    return Trained(config, shape, out, random_rows(shape.vocab, 12, 32), steps=12).prepare().go()
