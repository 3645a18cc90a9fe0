# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal changes: found by comparing its jobs with the recipe's own, allowed only where that is declared.

A setting that a recipe gains, and that its rehearsal loses, is therefore an error and no silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_elastic.errors import ElasticError

#: why -> settings that a rehearsal may change for it, as patterns of dotted names behind the job's
Declared = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Change:
    """One setting of a job that has another value in its rehearsal.

    Attributes:
        name: the job's name, and the setting's behind a colon.
        before, after: as the recipe has it, and its rehearsal; None where absent.
        why: key of what is declared.
    """

    name: str
    before: Any
    after: Any
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "before": self.before, "after": self.after, "why": self.why}


def changes(
    recipe: Mapping[str, Mapping[str, Any]], rehearsal: Mapping[str, Mapping[str, Any]], declared: Declared
) -> list[Change]:
    """Every setting of the recipe's jobs that the jobs of its rehearsal have otherwise.

    Args:
        recipe: settings of the recipe's jobs, by the job's name and theirs, as it builds them.
        rehearsal: those of the rehearsal; jobs that the recipe has not are passed over.
        declared: of the host: what may be changed.

    Raises:
        ElasticError: a setting that is not declared, or a job that is not rehearsed.
    """
    found, other = [], []
    for job, before in recipe.items():
        if job not in rehearsal:
            raise ElasticError(f"rehearsal: the recipe's job {job} is not in it")
        after = rehearsal[job]
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) == after.get(name):
                continue
            why = reason(name, declared)
            found.append(Change(f"{job}: {name}", before.get(name), after.get(name), why or ""))
            if why is None:
                other.append(found[-1])
    if other:
        told = "; ".join(f"{c.name} is {c.after!r}, in the recipe {c.before!r}" for c in other[:5])
        raise ElasticError(f"rehearsal: changes what it does not declare: {told}")
    return found


def reason(name: str, declared: Declared) -> str | None:
    """Why a setting may be changed, or None where it may not."""
    for why, patterns in declared.items():
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            return why
    return None
