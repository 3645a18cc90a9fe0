# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal changes: settings of its jobs that the recipe's own have otherwise, and for which replacement.

Both sets of jobs are built by the same code, from runs that differ in what `short.rehearsed` replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nemo_elastic.hosts.common.experiment import Job

#: settings of jobs, by the job's name and theirs
Settings = Mapping[str, Mapping[str, Any]]
#: why a callback is there that watches
WATCHED = "what it writes down"


@dataclass(frozen=True)
class Change:
    """One setting of a job that has another value in its rehearsal.

    Attributes:
        name: the job's name, and the setting's behind a colon.
        before, after: as the recipe has it, and its rehearsal; None where absent.
        why: it was replaced.
    """

    name: str
    before: Any
    after: Any
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "before": self.before, "after": self.after, "why": self.why}


@dataclass(frozen=True)
class Built:
    """A rehearsal's jobs as its host has built them.

    Attributes:
        jobs: what runs, by name, in order.
        steps: optimizer steps that each is to reach.
        changed: what differs from the recipe's own jobs.
    """

    jobs: Mapping[str, Job]
    steps: Mapping[str, int]
    changed: Sequence[Change]


def changes(recipe: Settings, replaced: Mapping[str, Settings]) -> list[Change]:
    """Every setting of the recipe's jobs that the jobs of its rehearsal have otherwise.

    Args:
        recipe: the recipe's own.
        replaced: why -> those after this replacement, in order; the last are the rehearsal's.
    """
    out: list[Change] = []
    for job, first in recipe.items():
        whys: dict[str, str] = {}
        before: Mapping[str, Any] = first
        for why, settings in replaced.items():
            after = settings[job]
            whys |= {name: why for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
            before = after
        out += [
            Change(f"{job}: {name}", first.get(name), before.get(name), whys[name])
            for name in sorted(whys)
            if first.get(name) != before.get(name)
        ]
    return out
