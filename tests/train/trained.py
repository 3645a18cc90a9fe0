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

STEPS, LENGTH = 12, 32


@dataclass
class Trained:
    """What is left of a training.

    Attributes:
        host: with the weights.
        family: its members.
        before: weights of the sorted parent.
        out: what ranking and search wrote.
        choices: of every micro-batch.
    """

    host: TorchHost
    family: FamilyTraining
    before: dict[str, torch.Tensor]
    out: Path
    choices: list[object]

    @property
    def members(self) -> dict[str, Subnet]:
        """By name."""
        names = [budget.name for budget in self.family.config.budgets]
        return dict(zip(names, self.family.members.get(), strict=True))

    @property
    def parent(self) -> Parent:
        return self.host.model.parent


def train_family(config: ElasticConfig, shape: Parent, out: Path) -> Trained:
    """Train it on random tokens.

    Args:
        config: the block.
        shape: the parent's, with the block's stripes.
        out: folder for what ranking and search write.
    """
    data = torch.randint(0, shape.vocab, (STEPS * 2, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    host = TorchHost(shape, NemotronH.random(shape, seed=1).state_dict(), data[:, :-1], micro_batch_size=2)
    family = FamilyTraining(config, steps=STEPS)
    family.members = Members(shape, len(config.budgets), family.new_router(shape), config.keep)
    prepare_members(family, host, out)
    before = {name: value.clone() for name, value in host.model.state_dict().items()}
    optimizer = torch.optim.AdamW([*host.model.parameters(), *family.members.parameters()], lr=1e-3)
    choices: list[object] = []
    for host.step in range(STEPS):
        shape_members(family, host, out)
        batch, mask = data[2 * host.step : 2 * host.step + 2], torch.ones(2, LENGTH)
        samples = family.next_samples(host.step)
        choices += [sample.choice for sample in samples]
        loss, _ = family.loss(host, samples, batch[:, :-1], batch[:, 1:], mask)
        (loss * host.factor(mask.sum())).backward()
        optimizer.step()
        optimizer.zero_grad()
    return Trained(host, family, before, out, choices)
