# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A rehearsal's jobs as its host has built them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_elastic.hosts.common.experiment import Job

from .changes import Change
from .short import Small

#: stands for a parent, data and a folder that only the real run has
THERE = ("/checkpoints/parent", ["/data/text"], "/runs/family")


@dataclass(frozen=True)
class Built:
    """What a host makes of a recipe.

    Attributes:
        small: of the family.
        jobs: what runs, by name, in order.
        steps: optimizer steps that each is to reach.
        changed: what differs from the recipe's own jobs.
    """

    small: Small
    jobs: Mapping[str, Job]
    steps: Mapping[str, int]
    changed: Sequence[Change]
